"""A controller that ends is started again; where none stays up, that is said at most once, with its own words."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from peelbound import embedded, supervisor
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.schemas.problem import Problem
from peelbound.service.settings import Settings
from peelbound.supervisor import ENDS, supervised
from tests.waiting import DEADLINE_SECONDS, until

ENDING = [sys.executable, "-S", "-c", "print('one more'); raise SystemExit(7)"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.0)


def test_who_would_give_up_is_told_after_a_few_ends_and_what_the_last_one_said(tmp_path: Path) -> None:
    log = tmp_path / "controller.log"
    log.write_text("of an earlier call\n")
    told: list[str] = []
    given_up = threading.Event()

    def give_up(why: str, stop: threading.Event) -> None:
        told.append(why)
        given_up.set()
        assert stop.wait(DEADLINE_SECONDS)

    with supervised(Settings(state_dir=tmp_path), ENDING, log, give_up):
        assert given_up.wait(DEADLINE_SECONDS)
    (why,) = told
    assert why.endswith("the last time with status 7. The last one said:\none more")
    assert log.read_text().count("one more") == ENDS


@pytest.mark.parametrize("stable", [False, True])
def test_nobody_is_told_who_would_not_give_up_nor_of_controllers_that_lived_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stable: bool
) -> None:
    if stable:
        monkeypatch.setattr(supervisor, "STABLE_SECONDS", 0.0)
    log = tmp_path / "controller.log"
    told: list[str] = []
    give_up = (lambda why, _: told.append(why)) if stable else None
    with supervised(Settings(state_dir=tmp_path), ENDING, log, give_up):
        until(lambda: log.read_text().count("one more") > ENDS)
    assert not told


def test_an_audit_that_nothing_works_on_is_failed_once_the_database_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    tried: list[str] = []

    def away() -> None:
        raise DatabaseUnavailable("The disk is full.")

    def over() -> None:
        stop.set()

    claims: list[Callable[[], str | None]] = [away, lambda: "audit", over]
    ends: list[Callable[[], None]] = [away, lambda: None]

    def fail(claim: str, problem: Problem) -> None:
        tried.append(f"{claim}: {problem.detail}")
        ends.pop(0)()

    leases = SimpleNamespace(claim=lambda _: claims.pop(0)(), fail=fail)
    monkeypatch.setattr(embedded, "Leases", lambda *_, **__: leases)
    monkeypatch.setattr(embedded, "FAIL_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(embedded, "UNWELL_SECONDS", 0.0)
    embedded._fail_all(Settings(state_dir=tmp_path), "It ended.", stop)
    assert tried == ["audit: It ended."] * 2
