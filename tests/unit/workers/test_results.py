"""Solutions in object storage."""

from pathlib import Path

import pytest
import torch

from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing, StorageUnavailable
from peelbound.workers.results import load_measurements, load_tensors, save_solution

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1e-8, float(torch.pi)])}
KEY = "tenants/me/results/state/0123"


class Failing:
    """A store whose n-th write fails."""

    def __init__(self, store: DirectoryStore, writes: int) -> None:
        self._store, self._left = store, writes

    def put(self, key: str, data: bytes, *, media_type: str = "application/octet-stream") -> object:
        if not self._left:
            raise StorageUnavailable("gone")
        self._left -= 1
        return self._store.put(key, data, media_type=media_type)

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def delete(self, key: str) -> None:
        self._store.delete(key)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


def test_a_solution_comes_back_to_the_last_bit(store: DirectoryStore) -> None:
    measurements = {"fit_residual": 0.1 + 0.2, "n": 3}
    save_solution(store, KEY, TENSORS, measurements)
    assert load_measurements(store, KEY) == measurements
    found = load_tensors(store, KEY)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], t) for name, t in TENSORS.items())


def test_views_and_parameters_can_be_saved(store: DirectoryStore) -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3).T)
    save_solution(store, KEY, {"p": parameter}, {})
    found = load_tensors(store, KEY)["p"]
    assert torch.equal(found, parameter)
    assert not found.requires_grad


def test_what_was_never_saved_is_not_there(store: DirectoryStore) -> None:
    assert load_measurements(store, KEY) is None
    with pytest.raises(ObjectMissing):
        load_tensors(store, KEY)


def test_damaged_tensors_are_no_solution_any_more(store: DirectoryStore, tmp_path: Path) -> None:
    save_solution(store, KEY, TENSORS, {"fit_residual": 0.5})
    (path,) = (tmp_path / "objects").rglob("*.safetensors.object")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ObjectCorrupt):
        load_tensors(store, KEY)
    assert load_measurements(store, KEY) is None


@pytest.mark.parametrize("writes", [0, 1])
def test_a_store_that_fails_on_the_way_leaves_no_whole_solution(store: DirectoryStore, writes: int) -> None:
    failing = Failing(store, writes)
    with pytest.raises(StorageUnavailable):
        save_solution(failing, KEY, TENSORS, {"a": 1})
    assert load_measurements(store, KEY) is None
    assert len(list(store.list("tenants/"))) == writes
    save_solution(store, KEY, TENSORS, {"a": 1})  # the next attempt writes over what is left
    assert load_measurements(store, KEY) == {"a": 1}


def test_measurements_that_are_no_numbers_leave_no_whole_solution(store: DirectoryStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_solution(store, KEY, TENSORS, {"a": float("nan")})
    assert load_measurements(store, KEY) is None


def test_damaged_tensors_are_not_handed_out(store: DirectoryStore, tmp_path: Path) -> None:
    save_solution(store, KEY, TENSORS, {})
    files = [f for f in tmp_path.rglob("*") if f.is_file() and b"weight" in f.read_bytes()]
    assert len(files) == 1
    data = bytearray(files[0].read_bytes())
    data[data.index(b"weight")] ^= 1
    files[0].write_bytes(data)
    with pytest.raises(ObjectCorrupt):
        load_tensors(store, KEY)
