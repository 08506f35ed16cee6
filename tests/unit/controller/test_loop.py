"""How a controller idles: it looks again soon, then less often, and soon again once it has worked."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from peelbound.service.controller import loop
from peelbound.service.controller.loop import LONGEST_POLL_SECONDS, Controller, pauses
from peelbound.service.controller.pulse import Stopping
from peelbound.service.database.audits import Audits
from peelbound.service.database.engine import make_engine
from peelbound.service.database.errors import DatabaseUnavailable
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.database.schema import open_database
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from peelbound.service.storage.open import open_store
from peelbound.workers.errors import WorkerLost

POLL_SECONDS = 0.1


class Recording(threading.Event):
    """An event on which nobody waits in earnest; it is set after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.asked: list[float | None] = []
        self._waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout)
        if len(self.asked) == self._waits:
            self.set()
        return self.is_set()


class IdlePool:
    """Has so many workers that wait for room, and none that started."""

    solved = 0

    def __init__(self, asked_for: int = 0) -> None:
        self.asked_for = asked_for

    def __len__(self) -> int:
        return 0

    def release(self) -> None:
        self.asked_for = 0

    def salvage(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        pass


class NoPulse:
    def start(self) -> None:
        pass

    def end(self) -> None:
        pass

    def check(self) -> None:
        pass


def test_pauses_grow_to_a_second_and_stay_there() -> None:
    found = list(islice(pauses(POLL_SECONDS), 15))
    assert found[0] == POLL_SECONDS
    assert all(b == pytest.approx(min(1.25 * a, LONGEST_POLL_SECONDS)) for a, b in pairwise(found))
    assert found[-1] == LONGEST_POLL_SECONDS
    assert sum(islice(pauses(POLL_SECONDS), 10)) < 5  # so long a controller stays quick after its last audit


def test_whoever_wants_longer_pauses_has_them() -> None:
    assert list(islice(pauses(7.0), 3)) == [7.0] * 3


def test_after_work_the_pauses_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path, poll_seconds=POLL_SECONDS)
    engine = make_engine(settings.resolved_database_url)
    stop = Recording(waits=5)
    no_pool: Any = IdlePool()
    controller = Controller(settings, engine, open_store(settings), stop, lambda *_: no_pool)
    no_pulse: Any = NoPulse()
    held: list[object] = []
    found: Iterator[object] = iter([None, None, None, "an audit", None, None])
    monkeypatch.setattr(controller, "pulse", no_pulse)
    monkeypatch.setattr(controller.leases, "claim", lambda _: next(found))
    monkeypatch.setattr(controller, "_hold", held.append)
    controller.run()
    engine.dispose()
    assert held == ["an audit"]
    assert stop.asked == [*islice(pauses(POLL_SECONDS), 3), *islice(pauses(POLL_SECONDS), 2)]


def test_who_was_told_to_stop_while_it_imported_starts_no_ray(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    engine = open_database(settings.resolved_database_url, wait_seconds=0)
    stop = threading.Event()
    stop.set()
    started: list[object] = []
    start_pool: Any = lambda *_: started.append(1)  # noqa: E731 - typed as Any: the fake starts no Pool
    with pytest.raises(Stopping):
        Controller(settings, engine, open_store(settings), stop, start_pool).run()
    engine.dispose()
    assert not started


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., IdlePool]]:
    """What is left of a pool after a controller has idled for a few looks."""
    engines = []

    def idle(claim: Callable[[str], None], **fields: Any) -> IdlePool:
        settings = Settings(state_dir=tmp_path, **fields)
        engines.append(make_engine(settings.resolved_database_url))
        pool, no_pulse = IdlePool(asked_for=3), NoPulse()
        start_pool: Any = lambda *_: pool  # noqa: E731 - typed as Any: the fake is no Pool
        controller = Controller(settings, engines[-1], open_store(settings), Recording(waits=3), start_pool)
        monkeypatch.setattr(controller, "pulse", no_pulse)
        monkeypatch.setattr(controller.leases, "claim", claim)
        controller.run()
        return pool

    yield idle
    for engine in engines:
        engine.dispose()


def nothing(_: str) -> None:
    return None


def away(_: str) -> None:
    raise DatabaseUnavailable("The database is not available.")


def test_workers_that_still_wait_for_room_are_given_back_too(idle: Callable[..., IdlePool]) -> None:
    assert idle(nothing, worker_idle_seconds=300).asked_for == 3
    assert idle(nothing, worker_idle_seconds=0).asked_for == 0


def test_a_controller_that_is_cut_off_gives_its_workers_back(
    idle: Callable[..., IdlePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is not may need them; the database cannot be asked whether."""
    assert idle(away, worker_idle_seconds=0).asked_for == 0
    monkeypatch.setattr(loop, "SHARED_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(Leases, "at_work", away)
    assert idle(away, worker_idle_seconds=300, ray_address="127.0.0.1:1").asked_for == 0


def test_two_audits_that_wait_for_workers_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "room_now", lambda _: 4)
    settings = Settings(state_dir=tmp_path, ray_address="127.0.0.1:1")
    engine = open_database(settings.resolved_database_url, wait_seconds=0)
    audits, leases = Audits(engine), Leases(engine, lease_seconds=30, max_attempts=3)
    for _ in range(2):
        audits.submit("acme", AuditRequest(checkpoint="/data", calibration=Calibration(texts=["a text"])), None)
    first, second = (leases.claim(owner) for owner in "ab")
    assert first is not None
    assert second is not None
    controller = Controller(settings, engine, open_store(settings), threading.Event())
    assert not controller._crowded(first)()
    working = Progress(phase="checking", problems_done=0, problems_planned=1, work_done=0, work_planned=1)
    leases.progress(second, working)
    assert controller._crowded(first)()
    engine.dispose()
    monkeypatch.setattr(controller.leases, "others_have_workers", away)
    assert controller._crowded(first)()


class OneLoss:
    """An audit that loses a worker when it is half done, and is then begun anew."""

    began = 0

    def __init__(self, *args: Any) -> None:
        self._report = args[5]

    def run(self) -> str:
        type(self).began += 1
        for phase, done in (("reading", 0), ("block_references", 2), ("checking", 5 if self.began == 1 else 9)):
            planned = 10 * (phase != "reading")
            self._report(
                Progress(
                    phase=phase, problems_done=done, problems_planned=planned, work_done=done, work_planned=planned
                )
            )
        if self.began == 1:
            raise WorkerLost("It died.")
        return "the outcome"


def test_progress_does_not_go_back_when_a_worker_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    engine = make_engine(settings.resolved_database_url)
    pool: Any = IdlePool()
    controller = Controller(settings, engine, open_store(settings), threading.Event(), lambda *_: pool)
    told: list[Progress] = []
    anything: Any = NoPulse()
    monkeypatch.setattr(loop, "Audit", OneLoss)
    monkeypatch.setattr(controller.leases, "progress", lambda _, progress: told.append(progress))
    claim: Any = Claim("an audit", "acme", 1, "one", anything)
    assert controller._carry_out(claim, anything) == "the outcome"
    engine.dispose()
    assert [progress.phase for progress in told] == ["reading", "block_references", "checking"] * 2
    assert [progress.problems_done for progress in told] == [0, 2, 5, 5, 5, 9]
    assert [progress.fraction for progress in told] == [0, 0.2, 0.5, 0.5, 0.5, 0.9]
