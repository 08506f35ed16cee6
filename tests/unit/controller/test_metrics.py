"""Counters that alerts go by are there before they count anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

from peelbound.service.controller import loop, metrics
from peelbound.workers.errors import PeelboundError, UserError

ROOT = Path(__file__).parents[3]
NOT_RETRIED = {"cancelled", "controller-stopping", "audit-unreadable"}  # the last is what replicas answer


def below(kind: type[PeelboundError]) -> Iterator[type[PeelboundError]]:
    for own in kind.__subclasses__():
        yield own
        yield from below(own)


def test_every_cause_of_a_retry_is_counted_from_nothing() -> None:
    assert loop  # with all kinds of errors that an attempt may end by
    ours = [kind for kind in below(PeelboundError) if not kind.__module__.startswith(("peelbound.api.", "tests."))]
    kinds = {kind.__name__: kind for kind in ours if not issubclass(kind, UserError)}
    slugs = {kind.slug for kind in kinds.values()} - NOT_RETRIED
    for folder in ("service", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                    slugs |= {str(ast.literal_eval(given.value)) for given in node.keywords if given.arg == "slug"}
    assert {"workers-differ", "lease-lost"} <= slugs
    assert slugs == set(metrics.CAUSES)
    (family,) = metrics.RETRIES.collect()
    assert slugs <= {sample.labels["cause"] for sample in family.samples}
