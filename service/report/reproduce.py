"""How to get the same report again: the request as JSON, and the command that sends it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

MOST_INLINE = 4
"""Inline documents that are printed; more are counted (they are whole in report.json)."""

MOST_CHARACTERS = 400
"""Length up to which an inline document is printed."""


def request_json(request: Mapping[str, Any]) -> str:
    """The request as the body of `POST /v1/audits`, with long inline calibration data counted instead of printed."""
    return json.dumps(_abridged(request), indent=2, sort_keys=True, ensure_ascii=False)


def is_abridged(request: Mapping[str, Any]) -> bool:
    """Whether `request_json` leaves inline data out, so that it cannot be sent as it stands."""
    return bool(_abridged(request) != dict(request))


def _abridged(request: Mapping[str, Any]) -> dict[str, Any]:
    calibration = request.get("calibration")
    if not isinstance(calibration, Mapping):
        return dict(request)
    shortened = dict(calibration)
    for name in ("texts", "token_ids"):
        documents = shortened.get(name)
        if documents and (len(documents) > MOST_INLINE or any(len(d) > MOST_CHARACTERS for d in documents)):
            shortened[name] = f"… {len(documents):,} documents, whole in report.json"
    return {**request, "calibration": shortened}


def audit_command(request: Mapping[str, Any]) -> str | None:
    """The shell command with the request's main choices, or None where the calibration data were given inline."""
    calibration = request.get("calibration")
    checkpoint = request.get("checkpoint")
    if not isinstance(calibration, Mapping) or not calibration.get("uri") or not checkpoint:
        return None
    words = [
        "peelbound audit",
        shlex.quote(str(checkpoint)),
        f"--calibration {shlex.quote(str(calibration['uri']))}",
    ]
    if provenance := calibration.get("provenance"):
        words.append(f"--provenance {shlex.quote(str(provenance))}")
    if preset := request.get("preset"):
        words.append(f"--preset {shlex.quote(str(preset))}")
    words.append(f"--seed {shlex.quote(str(request.get('seed', 0)))}")
    return " \\\n  ".join(words)
