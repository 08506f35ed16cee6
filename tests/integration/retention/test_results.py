"""Results are collected when nobody uses them, and never under a running audit, in whatever order things happen."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from threading import Thread

import pytest
from sqlalchemy import Engine, update

from peelbound.service.database.engine import writing
from peelbound.service.database.retention import Condemned
from peelbound.service.database.tables import AuditRow
from peelbound.service.retention.uses import LIST, objects_of
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import ObjectCorrupt, StorageUnavailable
from tests.integration.database.harness import PROBLEM
from tests.integration.retention.harness import GRACE, Attempt, Paused, Puppet, Storage
from tests.waiting import DEADLINE_SECONDS


@pytest.fixture
def storage(engine: Engine, store: ObjectStore) -> Storage:
    return Storage(engine, store)


def test_what_an_audit_used_stays_as_long_as_an_audit_that_used_it(storage: Storage) -> None:
    first, second = storage.audit("a", "b"), storage.audit("b", "c")
    assert second.made == ["c"]
    for _ in range(2):
        assert storage.collect() == (0, 0)
        storage.later()
    storage.delete(first)
    assert storage.collect() == (1, 0)
    assert storage.has("a")
    assert storage.collect() == (0, 0)  # its grace is not over
    storage.later()
    assert storage.collect() == (0, 1)
    assert [storage.has(name) for name in "abc"] == [False, True, True]
    assert storage.retention.condemned("acme") == set()
    storage.delete(second)
    storage.collect()
    storage.later()
    assert storage.collect() == (0, 2)
    assert list(storage.store.list("tenants/")) == []


def test_what_a_failed_audit_solved_is_kept_for_the_grace_and_found_by_the_next(storage: Storage) -> None:
    failed = storage.claimed().begin()
    failed.use("a")
    storage.service.leases.fail(failed.claim, PROBLEM)
    assert storage.collect() == (1, 0)
    again = storage.audit("a")
    assert again.made == []
    storage.later()
    assert storage.collect() == (0, 0)
    assert storage.has("a")


def test_nothing_is_deleted_under_an_attempt_that_began_before_it_was_condemned(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    attempt = storage.claimed().begin()
    storage.collect()
    storage.later()
    assert storage.collect() == (0, 0)
    attempt.use("a")
    storage.later()
    assert storage.collect() == (0, 0)
    attempt.publish()
    assert attempt.made == []
    assert storage.collect() == (0, 0)
    assert storage.has("a")
    assert storage.retention.condemned("acme") == set()


def test_an_attempt_that_was_taken_over_is_not_waited_for(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    storage.claimed()  # and its controller is never heard of again
    storage.collect()
    storage.later()
    assert storage.collect() == (0, 0)
    storage.service.claim("another")
    assert storage.collect() == (0, 1)


def test_an_attempt_of_an_earlier_versions_controller_stops_deletion(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    storage.collect()
    storage.later()
    attempt = storage.claimed()
    with writing(storage.engine) as connection:
        connection.execute(update(AuditRow).values(claimed_at=None))
    assert storage.collect() == (0, 0)
    storage.service.leases.fail(attempt.claim, PROBLEM)
    assert storage.collect() == (0, 1)


def test_whoever_wants_a_result_that_is_being_deleted_waits_and_makes_it_anew(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    storage.collect()
    storage.later()
    attempt = storage.claimed().begin()
    (condemned,) = storage.retention.due("acme", GRACE)
    waiting = Thread(target=attempt.use, args=("a",))
    with storage.retention.deleting("acme", condemned) as held:
        assert held
        waiting.start()
        for key in objects_of(condemned.name):
            storage.store.delete(key)
    waiting.join(DEADLINE_SECONDS)
    assert attempt.made == ["a"]
    attempt.publish()
    storage.later()
    assert storage.collect() == (0, 0)
    assert storage.has("a")


def test_a_deletion_that_breaks_off_is_done_by_the_next_collection(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    storage.collect()
    storage.later()
    (condemned,) = storage.retention.due("acme", GRACE)
    with suppress(StorageUnavailable), storage.retention.deleting("acme", condemned):
        storage.store.delete(objects_of(condemned.name)[0])
        raise StorageUnavailable("the store is gone")
    assert storage.retention.due("acme", GRACE) == [condemned]
    assert storage.collect() == (0, 1)
    assert list(storage.store.list("tenants/")) == []


def test_one_that_was_spared_and_condemned_again_is_not_deleted_by_a_collection_that_saw_it_before(
    storage: Storage,
) -> None:
    storage.delete(storage.audit("a"))
    storage.collect()
    storage.later()
    (seen,) = storage.retention.due("acme", GRACE)
    storage.retention.spare("acme", seen.name)
    storage.collect()
    with storage.retention.deleting("acme", seen) as held:
        assert not held
    assert storage.retention.condemned("acme") == {seen.name}
    assert isinstance(seen, Condemned)


def test_a_dry_run_says_what_is_done_and_changes_nothing(storage: Storage) -> None:
    storage.delete(storage.audit("a"))
    for _ in range(2):
        would = storage.collector.would_collect("acme")
        assert (would.results_condemned, would.results_deleted) == (1, 0)
    storage.collect()
    storage.later()
    would = storage.collector.would_collect("acme")
    assert storage.has("a")
    assert storage.collector.collect("acme") == would
    assert (would.results_deleted, would.bytes_freed) == (1, 2)


def list_of(attempt: Attempt) -> str:
    claim = attempt.claim
    return f"tenants/{claim.tenant}/audits/{claim.audit_id}/{claim.attempt}/{LIST}"


def test_each_list_is_read_once_in_a_collection_that_deletes_and_condemns(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.delete(storage.audit("a"))
    storage.collect()
    storage.later()
    kept, gone = storage.audit("b"), storage.audit("c")
    storage.delete(gone)
    kind, read = type(storage.store), Counter[str]()
    get = kind.get

    def counted(store: ObjectStore, key: str) -> bytes:
        read[key] += 1
        return get(store, key)

    monkeypatch.setattr(kind, "get", counted)
    assert storage.collect() == (1, 1)
    assert read == {list_of(kept): 1}


@pytest.mark.parametrize("damage", [b"", b"[", b'{"a": 1}', b"[1]", b'["\xff"]'])
def test_while_a_list_is_damaged_no_result_is_taken_for_unused(
    storage: Storage, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = storage.audit("a", "b")
    storage.delete(storage.audit("c"))
    storage.collect()
    storage.later()
    storage.delete(storage.audit("d"))
    whole = storage.store.get(list_of(kept))
    storage.store.put(list_of(kept), damage)
    for _ in range(2):
        would = storage.collector.would_collect("acme")
        assert (would.results_condemned, would.results_deleted, would.bytes_freed) == (0, 0, 0)
        caplog.clear()
        assert storage.collect() == (0, 0)
        (said,) = caplog.records
        assert said.levelname == "ERROR"
        assert kept.claim.audit_id in said.getMessage()
        storage.later()
    assert all(storage.has(name) for name in "abcd")
    storage.store.put(list_of(kept), whole)
    assert storage.collect() == (1, 1)
    assert [storage.has(name) for name in "abcd"] == [True, True, False, True]


def test_bytes_that_are_not_those_that_were_written_are_a_damaged_list_too(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = storage.audit("a")
    kind = type(storage.store)
    get = kind.get

    def corrupt(store: ObjectStore, key: str) -> bytes:
        if key == list_of(kept):
            raise ObjectCorrupt("its checksum does not fit")
        return get(store, key)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "get", corrupt)
        assert storage.collect() == (0, 0)
        assert kept.claim.audit_id in caplog.text
    storage.delete(kept)
    assert storage.collect() == (1, 0)


def test_an_audit_of_an_earlier_version_has_no_list_and_stops_nothing(storage: Storage) -> None:
    storage.store.delete(list_of(storage.audit("a")))
    assert storage.collect() == (1, 0)


COLLECTIONS = 10
"""Steps of the two collections below: each has five pauses at most, the second deletes."""
CONDEMNED_BY = 5
"""Steps after which the first collection has condemned and stamped."""
CHOSEN = {"sqlite": 3, "postgresql": 7}
"""One in so many of the orders in which the attempt begins after that is run, and of the others one in twenty times so
many."""


def test_no_order_of_the_steps_takes_a_result_away_from_an_attempt(engine: Engine, store: ObjectStore) -> None:
    """An attempt claims, learns what is condemned, uses a result and publishes, while two collections go on."""
    orders = list(combinations(range(COLLECTIONS + 4), 4))
    late = [places for places in orders if places[0] >= CONDEMNED_BY]
    early = [places for places in orders if places[0] < CONDEMNED_BY]
    every = CHOSEN[engine.dialect.name]
    deleted = spared = 0
    for number, places in enumerate(late[::every] + early[:: 20 * every]):
        storage = Storage(engine, store, f"tenant-{number}")
        storage.delete(storage.audit("x"))
        attempt = run_in_order(storage, frozenset(places))
        assert storage.has("x"), places
        deleted += attempt.made == ["x"]
        spared += attempt.made == []
        storage.later()
        storage.collect()
        storage.later()
        storage.collect()
        assert storage.has("x"), places
        storage.delete(attempt)
        storage.collect()
        storage.later()
        storage.collect()
        assert list(store.list(f"tenants/{storage.tenant}/")) == [], places
    assert deleted > 0
    assert spared > 0


def take_step(attempt: Attempt, number: int) -> None:
    match number:
        case 1:
            attempt.begin()
        case 2:
            attempt.use("x")
        case 3:
            attempt.publish()


def run_in_order(storage: Storage, places: frozenset[int]) -> Attempt:
    """Let the attempt take its steps at these places, and the collections theirs at the others."""

    def collections(pause: Callable[[], None]) -> None:
        collector = storage.collector_on(Paused(storage, pause))
        collector.collect(storage.tenant)
        storage.later()
        collector.collect(storage.tenant)

    puppet = Puppet(collections)
    attempt = None
    done = 0
    for place in range(COLLECTIONS + 4):
        if place not in places:
            puppet.step()
        elif done == 0:
            attempt, done = storage.claimed(), 1
        else:
            assert attempt is not None
            take_step(attempt, done)
            done += 1
        if done >= 3:
            assert storage.has("x"), (sorted(places), place)
    puppet.finish()
    assert attempt is not None
    return attempt
