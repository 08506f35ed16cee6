"""Errors of memory are told from others, work is made to fit, and what does not says what it takes."""

import gc
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from peelbound.workers.errors import DoesNotFit
from peelbound.workers.heap import Heap
from peelbound.workers.memory import HostMemory, Shortage, fitted, memory_of, shortage

CUDA = "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.11 GiB."


class Fake:
    """A device of some bytes; work says what it takes."""

    name = "a device"

    def __init__(self, size: int) -> None:
        self.size, self.freed, self.taken = size, 0, 0

    def room(self) -> int:
        return self.size

    def held(self) -> int:
        return self.taken

    def free(self) -> None:
        self.freed += 1
        self.taken = 0

    def working(self, bytes_by_resident: Callable[[int], int]) -> Callable[[int], str]:
        """Takes so many bytes with so many grains resident, half of them in the allocation that may fail."""

        def work(resident: int) -> str:
            need = bytes_by_resident(resident)
            self.taken = need // 2
            if need > self.size:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {need - need // 2} bytes. GPU 0 …")
            return "the result"

        return work


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (torch.OutOfMemoryError(CUDA), int(20.5 * 2**30)),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 96 bytes."),
            96,
        ),
        (MemoryError("Unable to allocate 2.00 KiB for an array with shape (512,)"), 2048),
        (MemoryError(), None),
        (RuntimeError("CUDA error: out of memory"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
    ],
    ids=["GPU", "torch on the CPU", "numpy", "Python", "driver", "cuBLAS"],
)
def test_a_lack_of_memory_says_what_was_asked_for(error: BaseException, asked: int | None) -> None:
    assert shortage(error, 7) == Shortage(7, asked)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_of_something_else(error: BaseException) -> None:
    assert shortage(error, 7) is None


def test_fewer_grains_are_tried_until_the_work_fits_and_nothing_is_left_of_a_try() -> None:
    device = Fake(30)
    assert fitted("a solve", device, [16, 8, 4, 2, 1], device.working(lambda r: 10 * r)) == ("the result", 2)
    assert device.freed == 3


def test_what_fits_at_once_is_done_once() -> None:
    device = Fake(30)
    assert fitted("a pass", device, [1, 1], device.working(lambda r: 30)) == ("the result", 1)
    assert device.freed == 0


def test_work_that_has_one_grain_as_it_is_gets_a_second_try_after_freeing() -> None:
    device, needs = Fake(30), iter([31, 30])
    assert fitted("a pass", device, [1, 1], device.working(lambda r: next(needs))) == ("the result", 1)


def test_what_does_not_fit_says_how_many_bytes_it_takes_and_how_many_there_are() -> None:
    device = Fake(30)
    with pytest.raises(
        DoesNotFit, match=r"a solve held 20 bytes .* asked for 21 more; the worker has 30 \(a device\)"
    ) as e:
        fitted("a solve", device, [2, 1], device.working(lambda r: 40 + r))
    assert (e.value.extra["bytes_needed"], e.value.extra["bytes_available"]) == (41, 30)


def test_an_error_of_another_kind_ends_the_work_at_once() -> None:
    device = Fake(30)

    def work(resident: int) -> str:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        fitted("a solve", device, [2, 1], work)
    assert device.freed == 0


LIMITED = """
import resource, sys
import numpy as np, torch
from peelbound.workers.heap import Heap
from peelbound.workers.memory import HostMemory, fitted
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
memory = HostMemory(Heap())
assert memory.name == "the process's address space", memory.name
for make in (lambda n: torch.ones(n << 20, dtype=torch.uint8), lambda n: np.ones(n << 20, np.uint8)):
    _, resident = fitted("work", memory, [1024, 512, 64], make)
    assert resident == 64, resident
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of an address space")
def test_the_allocators_own_errors_are_known() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_hosts_memory_is_what_is_above_what_there_was() -> None:
    gc.collect()
    heap = Heap()
    heap.trim()  # what earlier tests have left must not be taken for ours
    memory = HostMemory(heap)
    assert memory.room() > 0
    before = memory.held()
    much = np.ones(64 << 20, np.uint8)
    assert memory.held() - before == pytest.approx(much.nbytes, rel=0.2)
    del much
    memory.free()
    assert memory.held() - before < 16 << 20


class FakeCuda:
    """What `CudaMemory` asks of `torch.cuda`."""

    def __init__(self, free: int, total: int) -> None:
        self.free, self.total, self.fraction, self.emptied = free, total, 1.0, False

    def current_device(self) -> int:
        return 1

    def get_device_name(self, device: torch.device) -> str:
        return f"GPU {device.index}"

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return self.free, self.total

    def set_per_process_memory_fraction(self, share: float, device: torch.device) -> None:
        assert device.index is not None
        self.fraction = share

    def memory_allocated(self, device: torch.device) -> int:
        return 7

    def synchronize(self, device: torch.device) -> None:
        assert not self.emptied

    def empty_cache(self) -> None:
        self.emptied = True


@pytest.mark.parametrize(
    ("share", "free", "room", "fraction"),
    [(1.0, 70, 70, 1.0), (2.0, 70, 70, 1.0), (0.25, 70, 20, 0.25), (0.25, 15, 15, 0.25)],
    ids=["its own", "two of them", "a quarter", "a quarter that is not there"],
)
def test_a_worker_keeps_within_its_share_of_a_gpu(
    share: float, free: int, room: int, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(free, 80)
    monkeypatch.setattr("peelbound.workers.memory.torch.cuda", cuda)
    memory = memory_of(torch.device("cuda"), share, Heap())
    assert (memory.room(), memory.held(), memory.name, cuda.fraction) == (room, 7, "GPU 1", fraction)
    memory.free()
    assert cuda.emptied
