"""Calibration data: files or ids in, packed sequences out, split by document into fit, select and check.

Documents are the clusters of every statistic, so the packing keeps them: no document is in two splits, each document
used gives one contiguous span of tokens, and spans are as even as the texts allow. All choices are hashes of the seed
and the document's content: neither the order of files nor that of lines changes a split.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from peelbound.workers.encoder import Document, Encoder, without_end
from peelbound.workers.errors import CalibrationError
from peelbound.workers.keys import canonical, key_of, seed_of

SPLITS = ("fit", "select", "check")

CHECK_DOCUMENTS = 30
"""Check gets this many documents where there are enough: below it no verdict is tested."""

SELECT_DOCUMENTS = 6
"""Select gets this many where there are enough: from fewer, how much the gain of a step that it turned down varies is
unknown."""

_FIT_DOCUMENTS = 4
"""What select leaves to fit when it is filled up to `SELECT_DOCUMENTS`."""

_ENOUGH_DOCUMENTS = CHECK_DOCUMENTS + SELECT_DOCUMENTS + _FIT_DOCUMENTS

_OTHER_DOCUMENTS = 6
"""What fit and select must still have between them when check is filled up to `CHECK_DOCUMENTS`."""

_SHORTEST = 7
"""Tokens of the shortest document used. Fitting whole windows takes at most half of the text away, so that every span
keeps three tokens, and with them a prediction, even across a window's edge."""

_PIECE = 1 << 16
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Split:
    """Packed sequences of one split.

    Attributes:
        ids: token ids, int64 [N, T].
        document: whose token it is, 0 … documents-1, int32 [N, T]; -1 for tokens of no document (a separator after a
            span that was cut before its document's end).
        documents: number of documents.
        sha256: hash of the shape and both arrays.
    """

    ids: NDArray[np.int64]
    document: NDArray[np.int32]
    documents: int
    sha256: str


@dataclass(frozen=True)
class CalibrationSet:
    """The three splits (`fit`, `select`, `check`) and how they came about."""

    splits: dict[str, Split]
    duplicates_dropped: int
    sequence_length: int


def parse_documents(files: Sequence[tuple[str, bytes]], text_field: str) -> list[Document]:
    """Read `(name, bytes)` files: a `.jsonl` line is a document (`text_field` or `token_ids`), a `.txt` file is one.

    Blank lines are skipped. Raises CalibrationError naming the file and line at fault.
    """
    return [document for name, data in files for document in _parse_file(name, data, text_field)]


def inline_documents(*, texts: Sequence[str] = (), token_ids: Sequence[Sequence[int]] = ()) -> list[Document]:
    """Documents given in the request itself."""
    return [
        *(Document(t, None, f"texts[{i}]", f"/calibration/texts/{i}") for i, t in enumerate(texts)),
        *(
            Document(None, tuple(ids), f"token_ids[{i}]", f"/calibration/token_ids/{i}")
            for i, ids in enumerate(token_ids)
        ),
    ]


def build(
    documents: Sequence[Document],
    *,
    tokenizer_json: bytes | None,
    vocab_size: int,
    eos_id: int | None,
    sequence_length: int,
    budgets: Mapping[str, int],
    seed: int,
) -> CalibrationSet:
    """Deduplicate, split by document, tokenise and pack.

    Args:
        documents: texts need `tokenizer_json`; no special tokens are added to them.
        tokenizer_json: the checkpoint's `tokenizer.json`.
        vocab_size: ids must be below it.
        eos_id: put after every span where known. Its prediction counts only where the span ends its document.
        sequence_length: T, tokens in a window.
        budgets: windows at most, by split.
        seed: of the split and of where spans start.

    Raises:
        CalibrationError: `calibration-empty`, `calibration-too-small`, `calibration-vocabulary`,
            `calibration-tokenizer-missing`, `calibration-tokenizer-invalid` or `calibration-text-invalid`.
    """
    keyed, duplicates = _distinct(documents, eos_id)
    if not keyed:
        raise CalibrationError(
            "The calibration data hold no text.",
            slug="calibration-empty",
            remedy="Give documents with text or token_ids.",
            pointer="/calibration",
        )
    encoder = Encoder(tokenizer_json, vocab_size, eos_id)
    encoder.check_ids(keyed.values())
    order = {key: keyed[key] for key in sorted(keyed, key=lambda key: key_of([seed, "split", key]))}
    sieve = _Sieve()
    dealt, filled = _deal(order, encoder, sieve, sequence_length, budgets)
    if not filled and sieve.dropped:
        # What cannot be used has taken the places of documents that can. To tell them apart takes all texts as ids,
        # which is left until a split has run out: a large corpus must not need it.
        sieve = _Sieve()
        usable = {key: order[key] for key, ids in encoder.rows(order) if sieve.keeps(ids)}
        dealt, _ = _deal(usable, encoder, _Sieve(), sequence_length, budgets)
    splits = {name: _pack(name, rows, eos_id, sequence_length, budgets[name], seed) for name, rows in dealt.items()}
    return CalibrationSet(splits, duplicates + sieve.repeats, sequence_length)


def loss_mask(split: Split) -> NDArray[np.bool_]:
    """Which losses count, bool [N, T-1]: position t predicts token t+1 of the same window and the same document."""
    context, predicted = split.document[:, :-1], split.document[:, 1:]
    mask: NDArray[np.bool_] = (context == predicted) & (context >= 0)
    return mask


def _parse_file(name: str, data: bytes, text_field: str) -> Iterator[Document]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".jsonl", ".txt"):
        raise CalibrationError(
            f"{name}: files named *{suffix} are not read.",
            slug="calibration-format",
            remedy="Give .jsonl (a document a line) or .txt (a document a file).",
            pointer="/calibration/uri",
        )
    text = _decode(name, data)
    if suffix == ".txt":
        yield Document(text, None, name, "/calibration/uri")
        return
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if line.strip():
            yield _parse_line(f"{name}:{number}", line, text_field)


def _decode(name: str, data: bytes) -> str:
    try:
        offset = data.index(b"\0")
    except ValueError:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            offset = error.start
    raise CalibrationError(
        f"{name} is not UTF-8 text: byte {offset} is 0x{data[offset]:02x}.",
        slug="calibration-binary",
        remedy="Give plain UTF-8 text, uncompressed.",
        pointer="/calibration/uri",
    )


def _parse_line(where: str, line: str, text_field: str) -> Document:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{where} is not JSON: {error}.",
            slug="calibration-line-invalid",
            remedy="Each line of a .jsonl file must be one JSON object.",
            pointer="/calibration/uri",
        ) from error
    if isinstance(value, dict):
        text, ids = value.get(text_field), value.get("token_ids")
        if isinstance(text, str):
            return Document(text, None, where, "/calibration/uri")
        if isinstance(ids, list) and all(type(i) is int for i in ids):
            return Document(None, tuple(ids), where, "/calibration/uri")
    held = f"an object with {', '.join(map(repr, value)) or 'no members'}" if isinstance(value, dict) else "no object"
    raise CalibrationError(
        f"{where} holds {held}; it has neither text in {text_field!r} nor a list of integers in 'token_ids'.",
        slug="calibration-field-missing",
        remedy="Name the member that holds the text in /calibration/text_field.",
        pointer="/calibration/text_field",
    )


def _distinct(documents: Iterable[Document], eos_id: int | None) -> tuple[dict[str, Document], int]:
    """Documents by content key, blank ones left out, and how many duplicates were dropped.

    Texts are the same that differ only in Unicode composition and white space, ids that differ only in end-of-text
    tokens at the end. The least text of equals is kept, so that the order of files does not matter.
    """
    kept: dict[str, Document] = {}
    duplicates = 0
    for document in documents:
        if document.ids is not None:
            ids = without_end(document.ids, eos_id)
            if not ids:
                continue
            key = key_of(["ids", ids])
        else:
            if not document.text or document.text.isspace():
                continue
            try:
                key = text_key(document.text)
            except UnicodeEncodeError as error:
                raise CalibrationError(
                    f"{document.name} is not Unicode text: it holds half a surrogate pair.",
                    slug="calibration-text-invalid",
                    remedy="Write the text as valid Unicode.",
                    pointer=document.pointer,
                ) from error
        duplicates += key in kept
        if key not in kept or (document.text or "") < (kept[key].text or ""):
            kept[key] = document
    return kept, duplicates


def text_key(text: str, piece: int = _PIECE) -> str:
    """`key_of(["text", words])`, where `words` is the text in NFC with one space between words.

    By pieces that end at white space: the list of all words takes many times the memory of a text. Nothing composes
    with white space, so a piece in NFC is a piece of the text in NFC.

    Args:
        text: with a word at least.
        piece: characters taken at once, and the rest of a word.
    """
    digest, start, between = hashlib.sha256(b'["text","'), 0, b""
    while start < len(text):
        space = _SPACE.search(text, start + piece)
        end = len(text) if space is None else space.end()
        if words := " ".join(unicodedata.normalize("NFC", text[start:end]).split()):
            digest.update(between + canonical(words)[1:-1])
            between = b" "
        start = end
    digest.update(b'"]')
    return digest.hexdigest()


@dataclass
class _Sieve:
    """Lets through what a split can use: each sequence of ids once, and none that is too short.

    What tokenises alike is the same document to the model, whether it was given as text or as ids.

    Attributes:
        dropped: documents that were not let through.
        repeats: those of them that had been met already.
    """

    dropped: int = 0
    repeats: int = 0
    _met: set[str] = field(default_factory=set)

    def keeps(self, ids: tuple[int, ...]) -> bool:
        """Whether a document of these ids is of use."""
        key = key_of(["ids", ids])
        repeat, short = key in self._met, len(ids) < _SHORTEST
        self._met.add(key)
        self.repeats += repeat
        self.dropped += repeat or short
        return not (repeat or short)


def _deal(
    documents: Mapping[str, Document], encoder: Encoder, sieve: _Sieve, length: int, budgets: Mapping[str, int]
) -> tuple[dict[str, dict[str, tuple[int, ...]]], bool]:
    """Ids of the documents that each split takes, and whether none of them ran out of documents before its budget."""
    if len(documents) < len(SPLITS):
        raise CalibrationError(
            f"The calibration data hold {len(documents)} distinct documents that can be used; fit, select and check "
            "need one each.",
            slug="calibration-too-small",
            remedy=f"Give at least {len(SPLITS)} documents of {_SHORTEST} tokens or more, better {_ENOUGH_DOCUMENTS}.",
            pointer="/calibration",
        )
    dealt, filled, left = {}, True, iter(documents.items())
    for name, count in zip(SPLITS, _shares(len(documents), [budgets[name] for name in SPLITS]), strict=True):
        rows, full = _gather(dict(islice(left, count)), encoder, sieve, length, budgets[name])
        dealt[name] = rows
        filled = filled and full
    return dealt, filled


def _shares(documents: int, budgets: Sequence[int]) -> list[int]:
    """Documents of each split: proportional to its budget, one at least, check and select filled up to what they need.

    Check comes first, since without it nothing is tested at all.
    """
    fit, select, check = budgets
    to_check = round(documents * check / (fit + select + check))
    tested = documents >= CHECK_DOCUMENTS + _OTHER_DOCUMENTS
    if tested:
        others = min(documents - CHECK_DOCUMENTS, SELECT_DOCUMENTS + _FIT_DOCUMENTS)
        to_check = min(max(to_check, CHECK_DOCUMENTS), documents - others)
    to_check = min(max(to_check, 1), documents - 2)
    rest = documents - to_check
    to_select = rest - round(rest * fit / (fit + select))
    if tested:
        to_select = max(to_select, min(SELECT_DOCUMENTS, rest - _FIT_DOCUMENTS))
    to_select = min(max(to_select, 1), rest - 1)
    return [rest - to_select, to_select, to_check]


def _pack(
    name: str, rows: Mapping[str, tuple[int, ...]], eos_id: int | None, length: int, budget: int, seed: int
) -> Split:
    """Fill at most `budget` windows of `length` tokens, one span from each document, and no window in part."""
    separator = 0 if eos_id is None else 1
    total = sum(len(ids) + separator for ids in rows.values())
    if total < length:
        raise CalibrationError(
            f"The {name} split has {total} tokens in {len(rows)} documents of at least {_SHORTEST}; "
            f"one sequence takes {length}.",
            slug="calibration-too-small",
            remedy="Give more text, or a smaller sequence_length.",
            pointer="/calibration",
        )
    windows = min(budget, total // length)
    spans = _spans([len(ids) for ids in rows.values()], windows * length - separator * len(rows))
    ids: list[int] = []
    owner: list[int] = []
    for index, ((key, text), span) in enumerate(zip(rows.items(), spans, strict=True)):
        slack = len(text) - span
        start = seed_of(seed, "span", key) % (slack + 1)
        ids += text[start : start + span]
        owner += [index] * span
        if eos_id is not None:
            ids.append(eos_id)
            owner.append(index if start == slack else -1)  # text cut in its middle does not call for an end
    packed = np.array(ids, dtype=np.int64).reshape(-1, length)
    document = np.array(owner, dtype=np.int32).reshape(-1, length)
    digest = hashlib.sha256(str(packed.shape).encode())
    digest.update(packed.astype("<i8").tobytes())
    digest.update(document.astype("<i4").tobytes())
    return Split(packed, document, len(spans), digest.hexdigest())


def _gather(
    documents: Mapping[str, Document], encoder: Encoder, sieve: _Sieve, length: int, budget: int
) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Tokenise documents in order until they fill the budget with half a window each; whether they did.

    More documents would mean spans with too little context to be a fair sample of the model's loss. Only where that
    would leave too few documents for a test are spans allowed to be shorter.
    """
    rows: dict[str, tuple[int, ...]] = {}
    room, separator = budget * length, 0 if encoder.eos_id is None else 1
    quota = max(_SHORTEST, min(length // 2, room // CHECK_DOCUMENTS - separator))
    for key, ids in encoder.rows(documents):
        if sieve.keeps(ids):
            rows[key] = ids
            room -= min(len(ids), quota) + separator
            if room <= 0:
                return rows, True
    return rows, False


def _spans(lengths: Sequence[int], room: int) -> list[int]:
    """Tokens to take of each document, `room` in all, as evenly as the lengths allow.

    That is min(length, cap) with the largest cap that fits, and one token more for the first documents that have it.
    """
    low, high = 0, max(lengths)
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if sum(min(n, cap) for n in lengths) <= room else (low, cap - 1)
    spans = [min(n, low) for n in lengths]
    longer = [index for index, n in enumerate(lengths) if n > low]
    for index in longer[: room - sum(spans)]:
        spans[index] += 1
    return spans
