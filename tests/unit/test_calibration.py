"""Calibration data: what may be read, how it is split, and what packing promises."""

import json
import tracemalloc
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers

from peelbound.workers.calibration import (
    CHECK_DOCUMENTS,
    CalibrationSet,
    build,
    inline_documents,
    loss_mask,
    parse_documents,
    text_key,
)
from peelbound.workers.encoder import Document, Encoder
from peelbound.workers.errors import CalibrationError
from peelbound.workers.keys import key_of

BUDGETS = {"fit": 4, "select": 2, "check": 6}


def id_documents(count: int, length: int, vocabulary: int = 1000, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return inline_documents(token_ids=[rng.integers(1, vocabulary, length).tolist() for _ in range(count)])


def pack(documents: list[Document], **changes: object) -> CalibrationSet:
    defaults: dict[str, object] = {
        "tokenizer_json": None,
        "vocab_size": 1000,
        "eos_id": 0,
        "sequence_length": 16,
        "budgets": BUDGETS,
        "seed": 0,
    }
    return build(documents, **(defaults | changes))  # type: ignore[arg-type]


def word_tokenizer(*words: str) -> bytes:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)  # as saved files often carry it; calibration text must not be cut
    return tokenizer.to_str().encode()


# --- reading


def test_reads_lines_with_text_or_ids_and_whole_text_files() -> None:
    files = [
        ("a.jsonl", b'{"body": "one"}\r\n\n{"token_ids": [1, 2]}\n'),
        ("b.txt", "\ufeffzwei\u2028zeilen".encode()),
    ]
    assert parse_documents(files, "body") == [
        Document("one", None),
        Document(None, (1, 2)),
        Document("zwei\u2028zeilen", None),
    ]


def test_a_line_separator_within_a_json_string_does_not_end_the_line() -> None:
    line = json.dumps({"text": "a\u2028b"}, ensure_ascii=False).encode()
    assert parse_documents([("a.jsonl", line)], "text") == [Document("a\u2028b", None)]


@pytest.mark.parametrize(
    ("name", "data", "slug", "says"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "calibration-line-invalid", "a.jsonl:2"),
        ("a.jsonl", b"[" * 100_000, "calibration-line-invalid", "a.jsonl:1"),
        ("a.jsonl", b'{"body": "x"}', "calibration-field-missing", "'body'"),
        ("a.jsonl", b'{"token_ids": [1, true]}', "calibration-field-missing", "'token_ids'"),
        ("a.jsonl", b'{"token_ids": [1.0]}', "calibration-field-missing", "'token_ids'"),
        ("a.jsonl", b'"text"', "calibration-field-missing", "no object"),
        ("a.txt", b"ab\x00c", "calibration-binary", "byte 2 is 0x00"),
        ("a.txt", b"PK\x03\x04\xff", "calibration-binary", "byte 4 is 0xff"),
        ("a.parquet", b"PAR1", "calibration-format", "*.parquet"),
    ],
)
def test_unreadable_files_are_refused_by_name(name: str, data: bytes, slug: str, says: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        parse_documents([("good.txt", b"text"), (name, data)], "text")
    assert caught.value.slug == slug
    assert says in caught.value.detail
    assert caught.value.remedy
    assert caught.value.pointer in ("/calibration/uri", "/calibration/text_field")


# --- refusing


@pytest.mark.parametrize(
    ("documents", "slug", "says"),
    [
        ([], "calibration-empty", "no text"),
        (inline_documents(texts=[" \n", ""]), "calibration-empty", "no text"),
        (id_documents(2, 100), "calibration-too-small", "2 distinct documents that can be used"),
        (id_documents(3, 10), "calibration-too-small", "11 tokens in 1 documents"),
        (id_documents(6, 6), "calibration-too-small", "0 distinct documents that can be used"),
        ([*id_documents(5, 100), *inline_documents(token_ids=[[5, 1000]])], "calibration-vocabulary", "token id 1000"),
        ([*id_documents(5, 100), *inline_documents(token_ids=[[-1, 5]])], "calibration-vocabulary", "token id -1"),
        ([*id_documents(5, 100), *inline_documents(token_ids=[[2**70]])], "calibration-vocabulary", str(2**70)),
        (inline_documents(texts=["a", "b", "c"]), "calibration-tokenizer-missing", "texts["),
        (inline_documents(texts=["a", "b", "\ud800"]), "calibration-text-invalid", "texts[2]"),
    ],
)
def test_unusable_documents_are_refused_with_numbers(documents: list[Document], slug: str, says: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        pack(documents)
    assert caught.value.slug == slug
    assert says in caught.value.detail
    assert (caught.value.pointer or "").startswith("/calibration")


def test_an_id_outside_the_vocabulary_names_its_document() -> None:
    with pytest.raises(
        CalibrationError, match=r"token_ids\[1\] has token id 1000; the model's vocabulary has 1000 ids"
    ):
        pack(inline_documents(token_ids=[[1] * 50, [1000] * 50, [2] * 50]))


def test_a_tokenizer_larger_than_the_model_is_refused_only_where_it_matters() -> None:
    tokenizer = word_tokenizer("low", "high")
    usable = inline_documents(texts=["low " * n for n in (40, 50, 60)])
    assert pack(usable, tokenizer_json=tokenizer, vocab_size=2, eos_id=None).splits["fit"].ids.max() == 1
    with pytest.raises(CalibrationError) as caught:
        pack(
            [*usable[:2], *inline_documents(texts=["high " * 60])], tokenizer_json=tokenizer, vocab_size=2, eos_id=None
        )
    assert caught.value.slug == "calibration-vocabulary"


PANICS = {
    "as it is read": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "as it is used": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "words it does not know": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "missing"}},
}


@pytest.mark.parametrize("changes", PANICS.values(), ids=PANICS)
def test_a_tokenizer_that_fails_in_the_library_is_the_checkpoints_fault(
    changes: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    """Two of these are panics in Rust, which no `except Exception` stops: they would end the controller."""
    saved = json.dumps(json.loads(word_tokenizer("low", "high")) | changes).encode()
    with pytest.raises(CalibrationError) as caught:
        pack(inline_documents(texts=[f"low high {n}" for n in range(9)]), tokenizer_json=saved)
    assert (caught.value.slug, caught.value.pointer) == ("calibration-tokenizer-invalid", "/checkpoint")
    capfd.readouterr()  # a panic says so on standard error


def test_a_damaged_tokenizer_is_the_checkpoints_fault() -> None:
    with pytest.raises(CalibrationError) as caught:
        pack(inline_documents(texts=["a", "b", "c"]), tokenizer_json=b"{}")
    assert (caught.value.slug, caught.value.pointer) == ("calibration-tokenizer-invalid", "/checkpoint")


# --- splitting


@given(
    st.text(st.sampled_from('ae \u0301\u0327\n\u2000\u3000\xa0\x1cé\u1100\u1161\u11a8"\\\x07\u0345𝄞')),
    st.integers(1, 5),
)
def test_a_texts_key_is_that_of_its_words_in_whatever_pieces_it_is_read(text: str, piece: int) -> None:
    words = " ".join(unicodedata.normalize("NFC", text).split())
    assume(words)
    assert text_key(text, piece) == key_of(["text", words])


def test_every_white_space_stands_for_itself() -> None:
    """What `text_key` rests on: no normal form joins white space with what follows, or makes any of something else."""
    spaces = [c for c in map(chr, range(0x110000)) if c.isspace()]
    for mark in map(chr, range(0x110000)):
        if not mark.isspace() and (unicodedata.combining(mark) or unicodedata.decomposition(mark)):
            assert not any(c.isspace() for c in unicodedata.normalize("NFC", mark))
            assert unicodedata.normalize("NFC", f" {mark}")[0] == " "
    assert all(len(s) == 1 and s.isspace() for s in (unicodedata.normalize("NFC", c) for c in spaces))


def test_a_long_texts_key_takes_little_memory() -> None:
    text = "lorem ipsum dolor " * 100_000
    tracemalloc.start()
    text_key(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text)


def test_duplicates_cross_no_splits() -> None:
    texts = [f"{'low ' * n}high" for n in range(20, 60)]
    spaced = [text.replace(" ", " \n") for text in texts]
    packed = pack(inline_documents(texts=texts + spaced), tokenizer_json=word_tokenizer("low", "high"))
    assert packed.duplicates_dropped == 40
    alone = pack(inline_documents(texts=texts), tokenizer_json=word_tokenizer("low", "high"))
    assert [s.documents for s in packed.splits.values()] == [s.documents for s in alone.splits.values()]


def test_what_reads_alike_as_ids_is_one_document() -> None:
    """As text, as ids, and as ids that end with end-of-text tokens: fit would be checked on what it saw."""
    counts = range(20, 80)
    texts = inline_documents(texts=["low " * n for n in counts])
    ids = [[1] * n for n in counts]
    ended = inline_documents(token_ids=[row + [0] * n for row in ids for n in (0, 1, 2)])
    given = {"tokenizer_json": word_tokenizer("low"), "budgets": dict.fromkeys(BUDGETS, 400)}
    packed, alone = pack(texts + ended, **given), pack(inline_documents(token_ids=ids), **given)
    assert sum(s.documents for s in packed.splits.values()) == len(counts)
    assert [s.documents for s in packed.splits.values()] == [s.documents for s in alone.splits.values()]
    assert packed.duplicates_dropped == 3 * len(counts)


def test_of_two_spellings_of_a_text_the_same_one_is_kept_in_any_order() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "low": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")  # line breaks change the tokens
    texts = [("low " * n).strip() for n in range(40, 70)]
    documents = inline_documents(texts=texts + [text.replace("low low low", "low\nlow low") for text in texts])
    first, second = (
        pack(given, tokenizer_json=tokenizer.to_str().encode(), eos_id=None) for given in (documents, documents[::-1])
    )
    assert [s.sha256 for s in first.splits.values()] == [s.sha256 for s in second.splits.values()]


def test_the_seed_decides_which_documents_are_checked() -> None:
    documents = id_documents(50, 15)  # a window with its end: taken whole, so that only the split can differ
    chosen = [
        {tuple(row) for row in pack(documents, seed=seed, budgets=dict.fromkeys(BUDGETS, 50)).splits["check"].ids}
        for seed in (0, 1)
    ]
    assert chosen[0] != chosen[1]


def test_order_and_names_of_documents_change_nothing_but_the_seed_does() -> None:
    documents = id_documents(50, 40)
    renamed = [Document(d.text, d.ids, name=f"other {i}") for i, d in enumerate(documents)]
    first, second, third = pack(documents), pack(renamed[::-1]), pack(documents, seed=1)
    for name in BUDGETS:
        assert first.splits[name].sha256 == second.splits[name].sha256
        assert np.array_equal(first.splits[name].ids, second.splits[name].ids)
        assert first.splits[name].sha256 != third.splits[name].sha256


@pytest.mark.parametrize(("documents", "check"), [(35, 18), (36, 30), (60, 30), (61, 30), (200, 100)])
def test_check_is_filled_up_to_what_a_test_needs(documents: int, check: int) -> None:
    packed = pack(id_documents(documents, 16), budgets={"fit": 400, "select": 200, "check": 600})
    counts = {name: split.documents for name, split in packed.splits.items()}
    assert counts["check"] == check
    assert sum(counts.values()) == documents


@pytest.mark.parametrize(
    ("documents", "budgets", "select"),
    [
        (36, (64, 16, 96), 2),
        (40, (64, 16, 96), 6),
        (60, (256, 8, 96), 6),
        (100, (256, 8, 96), 6),
        (100, (16, 8, 400), 6),
        (200, (64, 32, 96), 33),
    ],
)
def test_select_is_filled_up_to_what_tells_a_spread(documents: int, budgets: tuple[int, ...], select: int) -> None:
    packed = pack(id_documents(documents, 16), budgets=dict(zip(BUDGETS, budgets, strict=True)))
    counts = {name: split.documents for name, split in packed.splits.items()}
    assert counts["select"] == select
    assert counts["check"] >= CHECK_DOCUMENTS
    assert counts["fit"] >= 4


def test_documents_that_are_too_short_take_no_places() -> None:
    long, short = id_documents(60, 600), id_documents(40, 6, seed=1)
    budgets = {"fit": 64, "select": 32, "check": 96}
    mixed, alone = (pack(given, sequence_length=64, budgets=budgets) for given in (long + short, long))
    assert alone.splits["check"].documents == CHECK_DOCUMENTS
    assert [s.sha256 for s in mixed.splits.values()] == [s.sha256 for s in alone.splits.values()]


def test_a_large_corpus_is_tokenised_only_as_far_as_the_budgets_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenised: list[str] = []
    encode = Encoder._encode

    def noted(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
        tokenised.extend(texts)
        return encode(encoder, tokenizer, texts)

    monkeypatch.setattr(Encoder, "_encode", noted)
    long, short = (f"{n:040}" for n in range(3000)), (str(n) for n in range(100, 400))
    texts = [" ".join(digits) for digits in (*long, *short)]  # a digit is a token
    packed = pack(inline_documents(texts=texts), tokenizer_json=word_tokenizer(*"0123456789"))
    assert packed.splits["check"].documents >= 6
    assert 0 < len(tokenised) < 400


def test_a_small_budget_still_gives_check_enough_documents() -> None:
    packed = pack(id_documents(400, 500), sequence_length=64, budgets={"fit": 4, "select": 4, "check": 6})
    assert packed.splits["check"].documents >= CHECK_DOCUMENTS


# --- packing


@given(
    lengths=st.lists(st.integers(1, 90), min_size=3, max_size=60),
    sequence_length=st.integers(8, 40),
    budgets=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    eos_id=st.sampled_from([None, 0]),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_packing_keeps_its_promises(
    lengths: list[int], sequence_length: int, budgets: tuple[int, int, int], eos_id: int | None, seed: int
) -> None:
    starts = np.cumsum([1, *lengths])
    texts = [tuple(range(a, b)) for a, b in pairwise(starts)]  # no id occurs twice
    owner_of = {i: text for text in texts for i in text}
    most = dict(zip(BUDGETS, budgets, strict=True))
    try:
        packed = pack(
            inline_documents(token_ids=texts),
            vocab_size=int(starts[-1]),
            eos_id=eos_id,
            sequence_length=sequence_length,
            budgets=most,
            seed=seed,
        )
    except CalibrationError as error:
        if error.slug != "calibration-too-small":
            raise
        return
    seen: set[tuple[int, ...]] = set()
    for name, split in packed.splits.items():
        assert split.ids.dtype == np.int64
        assert split.document.dtype == np.int32
        assert split.ids.shape == split.document.shape
        assert 1 <= len(split.ids) <= most[name]
        assert split.ids.shape[1] == sequence_length
        stream, owner = split.ids.ravel(), split.document.ravel()
        mask = loss_mask(split)
        used = set()
        for index in range(split.documents):
            span = stream[(owner == index) & (stream != 0)]
            text = owner_of[int(span[0])]
            used.add(text)
            assert np.array_equal(span, np.arange(span[0], span[0] + len(span)))  # contiguous, of one document
            assert set(span.tolist()) <= set(text)
            assert mask[split.document[:, 1:] == index].any()  # every document has a prediction
            ends = bool(((owner == index) & (stream == 0)).any())
            assert ends == (eos_id is not None and span[-1] == text[-1])
        assert len(used) == split.documents
        assert not used & seen
        seen |= used
        assert np.all((owner >= 0) | (stream == 0))
        predicted, context = split.ids[:, 1:], split.ids[:, :-1]
        assert np.all(~mask | (predicted == context + 1) | (predicted == 0))
        assert not np.any(mask & (context == 0))


def test_spans_start_anywhere_in_their_documents() -> None:
    documents = inline_documents(token_ids=[[i, *range(100, 900)] for i in range(1, 61)])
    streams = [pack(documents, seed=seed, eos_id=None).splits["check"].ids.ravel() for seed in (0, 1)]
    for stream in streams:
        assert np.mean(np.isin(stream, range(1, 61))) < 0.02  # hardly any span holds its document's first token
    assert not np.array_equal(streams[0], streams[1])


def test_spans_are_as_even_as_the_texts_allow() -> None:
    lengths = [10, 20, 500, 500, 500] * 3
    packed = pack(
        [d for i, n in enumerate(lengths) for d in id_documents(1, n, seed=i)],
        sequence_length=64,
        eos_id=None,
        budgets={"fit": 4, "select": 4, "check": 4},
    )
    for split in packed.splits.values():
        sizes = np.bincount(split.document.ravel())
        assert sizes.sum() == 4 * 64
        full = sizes[sizes > 20]
        assert full.max() - full.min() <= 1


def test_an_end_token_given_with_the_ids_is_not_doubled() -> None:
    texts = [[*range(1 + 20 * i, 20 + 20 * i), 0] for i in range(3)]
    packed = pack(inline_documents(token_ids=texts), sequence_length=20, budgets={"fit": 1, "select": 1, "check": 1})
    for split in packed.splits.values():
        assert split.ids[0].tolist() in texts
        assert loss_mask(split).all()
