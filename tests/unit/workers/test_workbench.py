"""What a worker remembers of its memory, and of a model that has no room there."""

import pytest
import torch

from peelbound.workers.errors import DoesNotFit
from tests.numerics import random_subject
from tests.unit.workers.harness import Acting


def short_above(most: int, tried: list[int]) -> object:
    def work(resident: int) -> int:
        tried.append(resident)
        if resident > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 bytes.")
        return resident

    return work


def test_what_fitted_once_is_where_the_next_task_of_its_kind_begins_until_another_model_comes(acting: Acting) -> None:
    worker, tried = acting.worker, list[int]()
    work = short_above(2, tried)
    for _ in range(2):
        assert worker.fitted("solve", [8, 4, 2, 1], work) == 2  # type: ignore[arg-type] # a function
    assert tried == [8, 4, 2, 2]
    assert worker.fitted("another", [8, 4, 2, 1], work) == 2  # type: ignore[arg-type] # the same
    assert tried[4] == 8
    acting.prepare()
    worker.fitted("solve", [8, 4, 2, 1], work)  # type: ignore[arg-type] # the same
    assert tried[7] == 8


def test_a_model_without_room_is_refused_with_all_its_tasks_until_there_is_another(acting: Acting) -> None:
    acting.prepare()
    subject = random_subject("llama")

    def build() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    with pytest.raises(DoesNotFit, match="prepare held"):
        acting.worker.lay_out(build)  # type: ignore[arg-type] # it returns nothing ever
    for _ in range(2):
        with pytest.raises(DoesNotFit) as caught:
            acting.worker.embed(subject.ids)
        assert caught.value.extra["bytes_needed"] >= 1 << 30
    acting.prepare()
    states, _ = acting.worker.embed(subject.ids)
    assert states.shape == subject.h(0).shape
