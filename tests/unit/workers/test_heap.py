"""Freed memory between two live allocations: malloc keeps it, a worker does not."""

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


def test_holes_go_back_to_the_system_once_they_are_more_than_the_slack() -> None:
    heap = Heap(slack=PIECE * PIECES // 2)
    heap.trim()  # else what earlier tests freed is taken first
    before = heap.held()
    live = holes()
    assert heap.held() - before > 0.8 * PIECE * PIECES
    heap.settle()
    assert len(live) == PIECES
    assert heap.held() - before < 0.2 * PIECE * PIECES


def test_less_than_the_slack_is_left_for_what_comes_next() -> None:
    heap = Heap(slack=2 * PIECE * PIECES)
    heap.trim()
    before = heap.held()
    live = holes()
    heap.settle()
    assert len(live) == PIECES
    assert heap.held() - before > 0.8 * PIECE * PIECES


def test_where_memory_cannot_be_given_back_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peelbound.workers.heap.ctypes.CDLL", lambda _: object())
    heap = Heap()
    heap.settle()
    assert heap.held() == 0
