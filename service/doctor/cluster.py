"""The Ray cluster: does it answer, does it take our token, has it room for the workers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from peelbound.service.controller.ray_head import unreachable
from peelbound.service.doctor.findings import Finding, ok, skipped, warning, wrong
from peelbound.service.settings import Settings

PROBE = [sys.executable, "-P", "-m", "peelbound.service.controller.ray_probe"]
PROBE_SECONDS = 90.0

_AUTHENTICATE = (
    "Give this process the cluster's token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH for a file."
)


def examine_cluster(settings: Settings) -> Finding:
    """Finding `ray`."""
    part, address = "ray", settings.ray_address
    if find_spec("ray") is None:
        return skipped(part, "Ray is not installed here; only controllers need it.")
    if address is None:
        return skipped(part, "PEELBOUND_RAY_ADDRESS is not set: each controller starts a Ray of its own.")
    if address.startswith("ray://"):
        remedy = "Run the controller inside the cluster and give the head's address, host:6379."
        return wrong(part, f"{address} is a Ray Client's address, which controllers do not use.", remedy)
    if (missing := _missing_token()) is not None:
        return wrong(part, missing, _AUTHENTICATE)
    if address != "auto" and (error := unreachable(address)) is not None:
        remedy = "See that PEELBOUND_RAY_ADDRESS is the head's host:port, that it runs and can be reached."
        return wrong(part, f"Nothing answers at {address}: {error}.", remedy)
    return _connected(part, address, settings)


def _missing_token() -> str | None:
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return None if path.read_text(encoding="utf-8").strip() else f"The token file {path} is empty."
    except OSError as error:
        return f"RAY_AUTH_MODE is token, and the token file {path} cannot be read: {error.strerror}."


def _connected(part: str, address: str, settings: Settings) -> Finding:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            PROBE,
            env=os.environ | settings.environment(),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return wrong(part, f"{address} gave no answer in {PROBE_SECONDS:g} s.", "See the head's log, and `ray status`.")
    lines = done.stdout.splitlines()
    try:
        told = json.loads(lines[-1])
    except (IndexError, ValueError):
        told = {"error": (done.stderr or done.stdout)[-1000:].strip()}
    if "error" in told:
        return wrong(part, f"{address}: {told['error']}", _remedy(f"{told['error']} {done.stderr}"))
    has = f"{address}: {told['nodes']} nodes with {told['cpus']:g} CPUs and {told['gpus']:g} GPUs"
    gpus = settings.workers * settings.worker_gpus
    if told["cpus"] < settings.workers or told["gpus"] < gpus:
        remedy = "Add nodes (an autoscaler may still do so), or lower PEELBOUND_WORKERS or PEELBOUND_WORKER_GPUS."
        return warning(
            part, f"{has}; {settings.workers} workers ask for {settings.workers} CPUs, {gpus:g} GPUs.", remedy
        )
    return ok(part, f"{has}.")


def _remedy(text: str) -> str:
    lower = text.lower()
    if "token" in lower or "unauthenticated" in lower:
        return _AUTHENTICATE
    if "version mismatch" in lower:
        return "Run the same versions of Ray and Python here and on the cluster."
    return "See the head's log, and `ray status` there."
