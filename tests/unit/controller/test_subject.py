"""Shards of whole grains, and sums by document."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peelbound.service.controller.subject import loss_sums, shard_rows, token_sums
from peelbound.workers.calibration import Split, loss_mask


@settings(deadline=None, max_examples=300)
@given(sequences=st.integers(1, 300), grain=st.integers(1, 40), workers=st.integers(1, 40))
def test_shards_are_whole_grains_that_cover_every_sequence_once(sequences: int, grain: int, workers: int) -> None:
    rows = shard_rows(sequences, grain, workers)
    assert [i for part in rows for i in range(part.start, part.stop)] == list(range(sequences))
    assert len(rows) == min(workers, -(-sequences // grain))
    assert all(part.start % grain == 0 for part in rows)
    assert all((part.stop - part.start) % grain == 0 for part in rows[:-1])
    sizes = [-(-(part.stop - part.start) // grain) for part in rows]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@st.composite
def splits(draw: st.DrawFn) -> Split:
    documents = draw(st.integers(1, 6))
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 9)))
    owner = draw(st.lists(st.integers(-1, documents - 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    document = np.array(owner, np.int32).reshape(shape)
    return Split(np.zeros(shape, np.int64), document, documents, hashlib.sha256().hexdigest())


def values(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(deadline=None)
@given(splits())
def test_losses_are_summed_by_the_document_that_is_predicted(split: Split) -> None:
    mask = loss_mask(split)
    losses = values(mask.shape)
    want = np.zeros(split.documents)
    for n in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            here, following = split.document[n, t], split.document[n, t + 1]
            assert mask[n, t] == (here == following and here != -1)
            if here == following and here != -1:
                want[following] += np.float64(losses[n, t])
    found = loss_sums(split, mask, losses)
    assert found.dtype == np.float64
    assert np.allclose(found, want, atol=1e-12)


@settings(deadline=None)
@given(splits())
def test_values_of_tokens_are_summed_by_their_document(split: Split) -> None:
    given_values = values(split.document.shape)
    want = [given_values[split.document == d].astype(np.float64).sum() for d in range(split.documents)]
    assert np.allclose(token_sums(split, given_values), want, atol=1e-12)


def test_sums_are_made_in_double_precision() -> None:
    split = Split(np.zeros((1, 5), np.int64), np.zeros((1, 5), np.int32), 1, "")
    big = np.array([[2.0**24, 1.0, 1.0, 1.0, 1.0]], np.float32)
    assert token_sums(split, big)[0] == 2.0**24 + 4
    assert loss_sums(split, loss_mask(split), big[:, :4])[0] == 2.0**24 + 3
