import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peelbound.workers.checkpoint.reader import CHUNK_BYTES, CONCURRENT_READS, Range, Reader, chunks, coalesced
from tests.waiting import DEADLINE_SECONDS

ranges = st.lists(
    st.builds(Range, st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 5)), max_size=8
)


def covered(pieces):
    """Every byte that is read, and where it goes."""
    return [(r.file, r.start + i, r.destination + i) for r in pieces for i in range(r.length)]


@given(ranges)
def test_joined_ranges_move_the_same_bytes(pieces):
    assert covered(coalesced(pieces)) == covered(pieces)


def test_ranges_are_joined_only_where_they_touch_on_both_sides():
    assert coalesced([Range("a", 0, 4, 0), Range("a", 4, 4, 4)]) == [Range("a", 0, 8, 0)]
    for other in (Range("b", 4, 4, 4), Range("a", 5, 4, 4), Range("a", 4, 4, 5)):
        assert len(coalesced([Range("a", 0, 4, 0), other])) == 2


def test_a_range_is_cut_into_reads_of_bounded_length():
    whole = Range("a", 3, 2 * CHUNK_BYTES + 5, 7)
    cut = chunks(whole)
    assert [piece.length for piece in cut] == [CHUNK_BYTES, CHUNK_BYTES, 5]
    assert coalesced(cut) == [whole]


def test_many_ranges_are_read_at_once_and_land_where_they_belong(reader):
    content = bytes(range(256))
    source = reader({"a": content})
    out = np.zeros(256, np.uint8)
    source.read_into(out, [Range("a", start, 8, 248 - start) for start in range(0, 256, 8)])
    assert out.tobytes() == b"".join(content[start : start + 8] for start in range(248, -1, -8))
    assert source.bytes_read == 256


def test_reads_overlap(files):
    # Each read waits until all have begun: with fewer at once the barrier would break.
    barrier = threading.Barrier(CONCURRENT_READS, timeout=DEADLINE_SECONDS)

    class Waiting(files):
        def read(self, name, start, length):
            barrier.wait()
            return super().read(name, start, length)

    source = Reader(Waiting({"a": bytes(64)}))
    source.at_once(lambda start: source.read("a", start, 1), list(range(CONCURRENT_READS)))
    assert source.bytes_read == CONCURRENT_READS


def test_the_first_error_ends_it(reader):
    source = reader({"a": bytes(8)})
    out = np.zeros(16, np.uint8)
    with pytest.raises(AssertionError, match="beyond the end"):
        source.read_into(out, [Range("a", 0, 4, 0), Range("a", 6, 8, 8)])


def test_a_file_is_read_whole_up_to_its_bound(reader, refused):
    source = reader({"a.json": b"12345"})
    assert source.read_whole("a.json", limit=5, slug="too-large") == b"12345"
    refused(
        lambda: source.read_whole("a.json", limit=4, slug="too-large"), "too-large", "a.json", "5 bytes", "at most 4"
    )
    assert source.bytes_read == 5
