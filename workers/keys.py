"""Identity of results: canonical JSON, content keys, seeds, and the platform that bits depend on.

A result's key holds everything that may change one of its bits. Two runs with equal keys may share a result; whatever
differs in key is computed anew.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Json = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
"""A value that JSON can hold."""


def canonical(value: Json) -> bytes:
    """Encode as JSON with sorted keys and no white space: equal values give equal bytes. Refuses NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def key_of(value: Json) -> str:
    """SHA-256 over the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def seed_of(*parts: Json) -> int:
    """A 63-bit seed derived from what the randomness is for, so that no draw depends on the order of work."""
    return int.from_bytes(hashlib.sha256(canonical(list(parts))).digest()[:8], "big") >> 1


@cache
def source_hash(package: str) -> str:
    """SHA-256 over the Python sources of a sub-package of peelbound: a changed formula must not meet an old result."""
    root = Path(__file__).resolve().parents[1] / package
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _cpu_model() -> str:
    """The processor's name: the math libraries choose their kernels by model, not by instruction set alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def platform_fingerprint(device: str) -> dict[str, str]:
    """What floating-point results depend on besides their inputs.

    Args:
        device: `cpu` or a CUDA device string.
    """
    import torch

    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "device": device.split(":")[0],
        "isa": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "cpu": _cpu_model(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "numpy": version("numpy"),
        "workers": source_hash("workers"),
    }


def compiler_fingerprint(device: str) -> str:
    """What turns traced blocks into machine code here, with its version; empty where there is none.

    Args:
        device: `cpu` or a CUDA device string.
    """
    if device.startswith("cuda"):
        try:
            return f"triton {version('triton')}"
        except PackageNotFoundError:
            return ""
    command = [os.environ.get("CXX", "g++"), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - torch's own
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0]
