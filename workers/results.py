"""Where solutions are kept: the part of object storage that workers need, and how a solution lies in it.

A solution is two objects under its key: the tensors (safetensors), then a JSON of measurements. The JSON is written
last: where it is, the solution is whole.
"""

import json
from typing import Any, Protocol

import safetensors.torch
from torch import Tensor

from peelbound.workers.errors import ObjectCorrupt, ObjectMissing
from peelbound.workers.keys import canonical


class ResultStore(Protocol):
    """What workers need of object storage; picklable and thread-safe."""

    def put(self, key: str, data: bytes, *, media_type: str = ...) -> object:
        """Write an object, atomically."""
        ...

    def get(self, key: str) -> bytes:
        """Read an object whose checksum was verified. Raises `ObjectMissing`, `ObjectCorrupt`."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""
        ...


def save_solution(store: ResultStore, key: str, tensors: dict[str, Tensor], measurements: dict[str, Any]) -> int:
    """Write tensors and measurements under `key`, the measurements last; answers how many bytes they are."""
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    store.put(f"{key}.safetensors", data)
    beside = canonical(measurements)
    store.put(f"{key}.json", beside, media_type="application/json")
    return len(data) + len(beside)


def load_measurements(store: ResultStore, key: str) -> dict[str, Any] | None:
    """The measurements of a whole solution, or None where there is none."""
    try:
        measurements: dict[str, Any] = json.loads(store.get(f"{key}.json"))
    except ObjectMissing:
        return None
    return measurements


def load_tensors(store: ResultStore, key: str) -> dict[str, Tensor]:
    """The tensors of a solution.

    Raises:
        ObjectCorrupt, ObjectMissing: they are damaged or gone. Their measurements are removed, so that the next attempt
            finds no solution and solves the problem again.
    """
    try:
        data = store.get(f"{key}.safetensors")
    except (ObjectCorrupt, ObjectMissing):
        store.delete(f"{key}.json")
        raise
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    return tensors
