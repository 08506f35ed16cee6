"""Freed memory between two live allocations: malloc keeps it, a worker does not."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from peelbound.workers.heap import Heap

PIECE, PIECES = 64 << 10, 2000


def holes() -> list[bytearray]:
    """Live arrays with PIECES × PIECE freed bytes between them: too small to be mapped apart, too many for the top."""
    live: list[bytearray] = []
    pieces: list[bytearray] = []
    for _ in range(PIECES):
        pieces.append(bytearray(b"1" * PIECE))
        live.append(bytearray(1 << 10))
    pieces.clear()
    return live


def held_before_and_after(slack: int) -> tuple[int, int]:
    """Bytes above what there was before: with the holes, and after they were settled."""
    heap = Heap(slack=slack)
    before = heap.held()
    live = holes()
    full = heap.held() - before
    heap.settle()
    assert len(live) == PIECES
    return full, heap.held() - before


def apart(slack: int) -> tuple[int, int]:
    """The same in a process of its own: here, what earlier tests freed would be taken first."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(held_before_and_after, slack).result()


def test_holes_go_back_to_the_system_once_they_are_more_than_the_slack() -> None:
    full, settled = apart(PIECE * PIECES // 2)
    assert full > 0.8 * PIECE * PIECES
    assert settled < 0.2 * PIECE * PIECES


def test_less_than_the_slack_is_left_for_what_comes_next() -> None:
    _, settled = apart(2 * PIECE * PIECES)
    assert settled > 0.8 * PIECE * PIECES


def test_where_memory_cannot_be_given_back_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peelbound.workers.heap.ctypes.CDLL", lambda _: object())
    heap = Heap()
    heap.settle()
    assert heap.held() == 0
