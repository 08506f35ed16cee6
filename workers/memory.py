"""How much memory a worker's device has, and how work is made to fit it.

Which grains of a solve stay on the device between its steps changes where bits come from and not what they are. So
when memory runs out, work is begun anew with fewer of them there, down to the one in hand. What does not fit even so is
told with the bytes that it took.
"""

import gc
import os
import re
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from peelbound.workers.errors import DoesNotFit
from peelbound.workers.heap import Heap

T = TypeVar("T")

_ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) (bytes|[KMGTP]iB)", re.IGNORECASE)
_UNITS = {unit: 1024**power for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))}
_SHORT = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch's plain RuntimeErrors say so: CUDA's driver and its pinned memory, the CPU's allocator, cuBLAS."""

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Memory(Protocol):
    """A device's memory, as far as one worker may use it."""

    name: str
    """What it is of, for people."""

    def room(self) -> int:
        """Bytes that a task may take, when the worker starts."""
        ...

    def held(self) -> int:
        """Bytes that this process holds now of what `room` was."""
        ...

    def free(self) -> None:
        """Give back what no tensor uses."""
        ...


class HostMemory:
    """The CPU's: what this process may have of the machine's, beside what it needs to be there at all."""

    def __init__(self, heap: Heap) -> None:
        """Measure from here on.

        Args:
            heap: of this process; gives freed memory back.
        """
        self._heap = heap
        self._before = heap.held()
        self.name, self._limit = min(_host_limits(), key=lambda limit: limit[1])

    def room(self) -> int:
        """The least of the limits on this process, less what it held before the first task."""
        return max(0, self._limit - self._before)

    def held(self) -> int:
        """Private resident bytes above what they were before the first task."""
        return max(0, self._heap.held() - self._before)

    def free(self) -> None:
        """Return freed memory to the system."""
        self._heap.trim()


class CudaMemory:
    """A GPU's, or the share of it that this worker was given: the rest is other workers'."""

    def __init__(self, share: float) -> None:
        """Keep this process within its share.

        Args:
            share: of the GPU that torch takes, above 0; from 1 on the worker has it to itself.
        """
        # By its number: some of torch's functions take no device without one.
        self._device = device = torch.device("cuda", torch.cuda.current_device())
        self.name = torch.cuda.get_device_name(device)
        free, total = torch.cuda.mem_get_info(device)
        self._room = free
        if share < 1:
            # Else the first worker to come takes what the others were promised.
            torch.cuda.set_per_process_memory_fraction(share, device)
            self._room = min(free, int(share * total))

    def room(self) -> int:
        """Bytes that were free when the worker started, at most its share."""
        return self._room

    def held(self) -> int:
        """Bytes in tensors."""
        return int(torch.cuda.memory_allocated(self._device))

    def free(self) -> None:
        """Return the allocator's cache to the device, so that its blocks can be cut anew."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


def memory_of(device: torch.device, share: float, heap: Heap) -> Memory:
    """The memory of a worker on this device, of which it has this share."""
    return CudaMemory(share) if device.type == "cuda" else HostMemory(heap)


def _host_limits() -> Iterator[tuple[str, int]]:
    """What bounds this process's memory, by name, in bytes."""
    yield "the machine", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield "the process's address space", soft
    for limit in _control_group_limits():
        yield "the control group", limit


def _control_group_limits() -> Iterator[int]:
    """`memory.max` of the process's control group and of those around it (cgroup v2), or version 1's own."""
    own = Path("/proc/self/cgroup")
    lines = own.read_text(encoding="ascii").splitlines() if own.exists() else []
    inside = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    group = _CONTROL_GROUPS / inside.lstrip("/")
    files = [place / "memory.max" for place in (group, *group.parents) if place.is_relative_to(_CONTROL_GROUPS)]
    for file in (*files, _CONTROL_GROUPS / "memory" / "memory.limit_in_bytes"):
        text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
        if text.isdecimal():
            yield int(text)


@dataclass(frozen=True)
class Shortage:
    """That memory ran out, in bytes."""

    held: int
    """By this process when it did."""
    asked: int | None
    """By the allocation that failed, where its message says so."""


def shortage(error: BaseException, held: int) -> Shortage | None:
    """What an error says of memory; None where it is of something else.

    Args:
        error: as torch or numpy raise it.
        held: bytes that the process holds.
    """
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT)
    ):
        return None
    asked = _ASKED.search(str(error))
    return Shortage(held, None if asked is None else int(float(asked[1]) * _UNITS[asked[2]]))


def fitted(what: str, memory: Memory, choices: Sequence[int], work: Callable[[int], T]) -> tuple[T, int]:
    """Do work with as many grains resident as fit.

    Args:
        what: the work, for messages.
        memory: of the device.
        choices: how many grains may stay on the device, the most first and 1 last. The same number twice is a second
            try, once what was freed is put together.
        work: begins from the same each time; its bits must not depend on what it is called with.

    Returns:
        What `work` returned, and the number that it fitted with.

    Raises:
        DoesNotFit: it ran out of memory with every choice.
    """
    found = Shortage(0, None)
    for resident in choices:
        try:
            return work(resident), resident
        except (MemoryError, RuntimeError) as error:
            short = shortage(error, memory.held())
            if short is None:
                raise
            found = short
        # Only here, where the error and its traceback are gone, is nothing left of what the work held.
        gc.collect()
        memory.free()
    raise _does_not_fit(what, memory, found)


def _does_not_fit(what: str, memory: Memory, found: Shortage) -> DoesNotFit:
    room = memory.room()
    needed = found.held + (found.asked or 0)
    return DoesNotFit(
        f"{what} held {found.held:,} bytes with one grain in hand"
        + (" when memory ran out" if found.asked is None else f" and asked for {found.asked:,} more")
        + f"; the worker has {room:,} ({memory.name}).",
        remedy="Lower options.grain or calibration.sequence_length.",
        bytes_needed=needed,
        bytes_available=room,
    )
