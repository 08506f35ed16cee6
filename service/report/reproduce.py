"""How to get the same report again: the request as JSON, and the command that sends it."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peelbound.service.schemas.base import WireModel
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration

MOST_INLINE = 4
"""Inline documents that are printed; more are counted (they are whole in report.json)."""

MOST_CHARACTERS = 400
"""Length up to which an inline document is printed."""


_CALIBRATION_FLAGS = (
    "provenance",
    "text_field",
    "sequence_length",
    "fit_sequences",
    "select_sequences",
    "check_sequences",
    "split_seed",
)
_OPTION_FLAGS = ("tolerance", "precision")
_WITHOUT_FLAG = sorted(set(AuditOptions.model_fields) - {*_OPTION_FLAGS, "compile", "maps"})


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


@dataclass(frozen=True)
class Command:
    """A shell command that asks for the same audit."""

    text: str
    exact: bool
    """Whether it carries the whole request; some options have no flag."""


def audit_command(request: Mapping[str, Any]) -> Command | None:
    """The command for a request, without what the defaults say; None where the calibration data were given inline."""
    calibration, options = request.get("calibration"), request.get("options") or {}
    checkpoint = request.get("checkpoint")
    if not isinstance(calibration, Mapping) or not calibration.get("uri") or not checkpoint:
        return None
    words = ["peelbound audit", shlex.quote(str(checkpoint)), _flag("calibration", calibration["uri"])]
    words += _given(request, AuditRequest, ("preset", "baseline", "what_if", "seed"))
    words += _given(calibration, Calibration, _CALIBRATION_FLAGS)
    words += _given(options, AuditOptions, _OPTION_FLAGS)
    words += ["--compile"] if options.get("compile") else []
    words += [_flag("anchors", ",".join(map(str, anchors))) for anchors in options.get("maps") or []]
    return Command(" \\\n  ".join(words), exact=not _given(options, AuditOptions, _WITHOUT_FLAG))


def _given(values: Mapping[str, Any], model: type[WireModel], names: Iterable[str]) -> list[str]:
    """A flag for each value that is there and differs from its default."""
    fields = model.model_fields
    return [_flag(name, values[name]) for name in names if name in values and values[name] != fields[name].default]


def _flag(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
