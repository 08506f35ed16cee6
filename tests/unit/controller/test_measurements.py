"""Results by content, and the remembered digest of a checkpoint."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peelbound.service.controller.digests import Digests
from peelbound.service.controller.measurements import Measurements, unannounced
from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.errors import CheckpointChanged
from peelbound.workers.results import save_solution


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


def measurements(store: DirectoryStore, tenant: str = "me", **identity: Any) -> Measurements:
    return Measurements(
        store, tenant, {"checkpoint": "abc", "grain": 8, **identity}, sources="service", use=unannounced
    )


def never() -> Any:
    raise AssertionError("measured again")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.integers())
def test_a_found_measurement_equals_a_fresh_one_to_the_last_bit(
    store: DirectoryStore, values: list[float], asked: int
) -> None:
    own = measurements(store)
    key = {"asked": asked, "values": len(values), "first": values[:1]}
    for stored in list(store.list("")):
        store.delete(stored.key)
    fresh = own.measured("trained", key, lambda: {"losses": values})
    found = own.measured("trained", key, never)
    assert fresh == found == own.find("trained", key) == {"losses": values}
    assert [math.copysign(1, v) for v in found["losses"]] == [math.copysign(1, v) for v in values]


def test_float32_rows_and_tuples_come_back_as_a_second_audit_will_see_them(store: DirectoryStore) -> None:
    rows = np.array([0.1, 1 / 3], np.float32).astype(np.float64).tolist()
    fresh = measurements(store).measured("trained", None, lambda: {"a": (1, 2), "rows": rows})
    assert fresh == {"a": [1, 2], "rows": rows}


@pytest.mark.parametrize("value", [{"a": 1}, [], 0, False], ids=str)
def test_what_was_measured_is_not_measured_again(store: DirectoryStore, value: Any) -> None:
    """Also where Python takes the value for false."""
    measurements(store).measured("trained", None, lambda: value)
    assert measurements(store).measured("trained", None, never) == value


def test_whatever_differs_is_measured_anew(store: DirectoryStore) -> None:
    own = measurements(store)
    own.measured("trained", {"damage": None}, lambda: 1)
    assert own.find("trained", {"damage": 1}) is None
    assert own.find("scores", {"damage": None}) is None
    assert measurements(store, checkpoint="abd").find("trained", {"damage": None}) is None
    assert measurements(store, grain=4).find("trained", {"damage": None}) is None
    assert measurements(store, tenant="you").find("trained", {"damage": None}) is None


def test_tenants_results_lie_apart(store: DirectoryStore) -> None:
    assert measurements(store).key("head", 1).startswith("tenants/me/results/head/")
    assert measurements(store, tenant="you").key("head", 1).startswith("tenants/you/results/head/")


def test_a_measurement_that_fails_leaves_nothing(store: DirectoryStore) -> None:
    own = measurements(store)
    with pytest.raises(AssertionError):
        own.measured("trained", None, never)
    with pytest.raises(ValueError, match="JSON"):
        own.measured("trained", None, lambda: [float("nan")])
    assert own.find("trained", None) is None
    assert own.solution(own.key("trained", None)) is None


# Damage


def flip(store: DirectoryStore, key: str, at: int = 1) -> None:
    """What a bad sector does to a stored object."""
    file = store.root / f"{key}.object"
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_damaged_measurement_is_measured_and_written_again(store: DirectoryStore) -> None:
    own = measurements(store)
    own.measured("trained", None, lambda: {"losses": [1.0]})
    (stored,) = store.list("tenants/")
    flip(store, stored.key)
    assert own.find("trained", None) is None
    assert own.measured("trained", None, lambda: {"losses": [1.0]}) == own.measured("trained", None, never)


@pytest.mark.parametrize("damage", ["measurements flipped", "measurements gone", "tensors gone", "tensors cut off"])
def test_a_solution_that_is_not_whole_counts_as_unsolved_until_it_is_solved_again(
    store: DirectoryStore, damage: str
) -> None:
    own = measurements(store)
    key = own.key("corrected", 1)
    save_solution(store, key, {"weight": torch.ones(2)}, {"gap": 0.5})
    assert own.solution(key) == {"gap": 0.5}
    tensors = store.root / f"{key}.safetensors.object"
    match damage:
        case "measurements flipped":
            flip(store, f"{key}.json")
        case "measurements gone":
            store.delete(f"{key}.json")
        case "tensors gone":
            store.delete(f"{key}.safetensors")
        case "tensors cut off":
            tensors.write_bytes(tensors.read_bytes()[:-1])
    assert own.solution(key) is None
    save_solution(store, key, {"weight": torch.ones(2)}, {"gap": 0.5})
    assert own.solution(key) == {"gap": 0.5}


# Digests


class Files:
    """A checkpoint's files, as far as their digest is concerned."""

    def __init__(self, memo: str | None) -> None:
        self._memo = memo

    def files(self) -> dict[str, int]:
        return {"model.safetensors": 8}

    def read(self, name: str, start: int, length: int) -> bytes:
        return b"\0" * length

    def version(self, name: str) -> str:
        return "1"

    def memo_key(self) -> str | None:
        return self._memo


def test_a_digest_is_remembered_for_the_same_files_of_the_same_tenant(store: DirectoryStore) -> None:
    Digests(store, "me", Files("a"), unannounced).keep("123")
    assert Digests(store, "me", Files("a"), unannounced).find() == "123"
    assert Digests(store, "me", Files("b"), unannounced).find() is None
    assert Digests(store, "you", Files("a"), unannounced).find() is None


def test_a_damaged_digest_is_forgotten_until_it_is_kept_again(store: DirectoryStore) -> None:
    digests = Digests(store, "me", Files("a"), unannounced)
    digests.keep("123")
    (stored,) = store.list("tenants/")
    flip(store, stored.key)
    assert digests.find() is None
    digests.keep("123")
    assert digests.find() == "123"


def test_nothing_is_remembered_of_files_written_just_now(store: DirectoryStore) -> None:
    young = Digests(store, "me", Files(None), unannounced)
    young.keep("123")
    assert young.find() is None
    assert list(store.list("tenants/")) == []


def test_other_bytes_behind_the_same_version_end_the_audit() -> None:
    Digests.verify("123", "123")
    Digests.verify("123", None)
    with pytest.raises(CheckpointChanged) as caught:
        Digests.verify("123", "124")
    assert caught.value.pointer == "/checkpoint"
