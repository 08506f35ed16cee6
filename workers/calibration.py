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
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from peelbound.workers.errors import CalibrationError
from peelbound.workers.keys import canonical, key_of, seed_of
from peelbound.workers.panics import panics_caught

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

_ENCODE_BATCH = 64
"""Documents tokenised at once; a large corpus is tokenised only as far as the budgets reach."""


@dataclass(frozen=True)
class Document:
    """One document, as text or as token ids (exactly one of the two).

    `name` and `pointer` say where it came from, for errors; they are no part of its identity.
    """

    text: str | None
    ids: tuple[int, ...] | None
    name: str = field(default="a document", compare=False)
    pointer: str = field(default="/calibration", compare=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.ids is None):
            raise ValueError("a document has either text or ids")


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
    keyed, duplicates = _distinct(documents)
    if not keyed:
        raise CalibrationError(
            "The calibration data hold no text.",
            slug="calibration-empty",
            remedy="Give documents with text or token_ids.",
            pointer="/calibration",
        )
    if len(keyed) < len(SPLITS):
        raise CalibrationError(
            f"The calibration data hold {len(keyed)} distinct documents; fit, select and check need one each.",
            slug="calibration-too-small",
            remedy=f"Give at least {len(SPLITS)} documents, better {_ENOUGH_DOCUMENTS} or more.",
            pointer="/calibration",
        )
    order = sorted(keyed, key=lambda key: key_of([seed, "split", key]))
    encoder = _Encoder(tokenizer_json, vocab_size, eos_id)
    encoder.check_ids(keyed.values())
    splits, start = {}, 0
    for name, count in zip(SPLITS, _shares(len(order), [budgets[name] for name in SPLITS]), strict=True):
        chosen = {key: keyed[key] for key in order[start : start + count]}
        splits[name] = _pack(name, chosen, encoder, sequence_length, budgets[name], seed)
        start += count
    return CalibrationSet(splits, duplicates, sequence_length)


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


def _distinct(documents: Iterable[Document]) -> tuple[dict[str, Document], int]:
    """Documents by content key, blank ones left out, and how many duplicates were dropped.

    Texts are the same that differ only in Unicode composition and white space. The least text of equals is kept, so
    that the order of files does not matter.
    """
    kept: dict[str, Document] = {}
    duplicates = 0
    for document in documents:
        if document.ids is not None:
            if not document.ids:
                continue
            key = key_of(["ids", document.ids])
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


class _Encoder:
    """Turns documents into ids below the model's vocabulary size; the tokenizer is only read when a text needs it."""

    def __init__(self, tokenizer_json: bytes | None, vocab_size: int, eos_id: int | None) -> None:
        self._json = tokenizer_json
        self._vocab_size = vocab_size
        self.eos_id = eos_id
        self._tokenizer: Tokenizer | None = None

    def check_ids(self, documents: Iterable[Document]) -> None:
        """Refuse ids given directly that the model does not know, whether or not a split will use them."""
        for document in documents:
            self._check(document, document.ids or ())

    def encode(self, documents: Sequence[Document]) -> list[tuple[int, ...]]:
        """Ids of each document, without an end-of-text token at the end (packing puts one there)."""
        texts = [document.text for document in documents if document.text is not None]
        encoded = iter(self._encode(self._load(documents), texts) if texts else ())
        rows = []
        for document in documents:
            ids = document.ids
            if ids is None:
                ids = tuple(next(encoded).ids)
                self._check(document, ids)
            rows.append(ids[:-1] if ids and ids[-1] == self.eos_id else ids)
        return rows

    def _encode(self, tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
        try:
            with panics_caught():
                return tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the Rust binding raises bare Exception
            raise _invalid_tokenizer(f"The tokenizer of tokenizer.json does not take the text: {error}") from error

    def _check(self, document: Document, ids: Sequence[int]) -> None:
        wrong = next((i for i in ids if not 0 <= i < self._vocab_size), None)
        if wrong is not None:
            raise CalibrationError(
                f"{document.name} has token id {wrong}; the model's vocabulary has {self._vocab_size} ids, "
                f"0 to {self._vocab_size - 1}.",
                slug="calibration-vocabulary",
                remedy="Use the tokenizer that the checkpoint was trained with.",
                pointer=document.pointer,
            )

    def _load(self, documents: Sequence[Document]) -> Tokenizer:
        if self._tokenizer is not None:
            return self._tokenizer
        if self._json is None:
            name = next(document.name for document in documents if document.text is not None)
            raise CalibrationError(
                f"The checkpoint has no tokenizer.json, so the text of {name} cannot be tokenised.",
                slug="calibration-tokenizer-missing",
                remedy="Put tokenizer.json beside the checkpoint, or give token_ids instead of text.",
                pointer="/calibration",
            )
        try:
            with panics_caught():
                tokenizer = Tokenizer.from_str(self._json.decode())
        except Exception as error:  # the Rust binding raises bare Exception
            raise _invalid_tokenizer(f"tokenizer.json cannot be read: {error}") from error
        tokenizer.no_truncation()  # a saved tokenizer may carry both
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        return tokenizer


def _invalid_tokenizer(detail: str) -> CalibrationError:
    return CalibrationError(
        detail,
        slug="calibration-tokenizer-invalid",
        remedy="Save the tokenizer again, or give token_ids instead of text.",
        pointer="/checkpoint",
    )


def _pack(
    name: str, documents: Mapping[str, Document], encoder: _Encoder, length: int, budget: int, seed: int
) -> Split:
    """Fill at most `budget` windows of `length` tokens, one span from each document, and no window in part."""
    separator = 0 if encoder.eos_id is None else 1
    rows = _gather(documents, encoder, separator, length, budget)
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
        if encoder.eos_id is not None:
            ids.append(encoder.eos_id)
            owner.append(index if start == slack else -1)  # text cut in its middle does not call for an end
    packed = np.array(ids, dtype=np.int64).reshape(-1, length)
    document = np.array(owner, dtype=np.int32).reshape(-1, length)
    digest = hashlib.sha256(str(packed.shape).encode())
    digest.update(packed.astype("<i8").tobytes())
    digest.update(document.astype("<i4").tobytes())
    return Split(packed, document, len(spans), digest.hexdigest())


def _gather(
    documents: Mapping[str, Document], encoder: _Encoder, separator: int, length: int, budget: int
) -> dict[str, tuple[int, ...]]:
    """Tokenise documents in order until they fill the budget with half a window each.

    More documents would mean spans with too little context to be a fair sample of the model's loss. Only where that
    would leave too few documents for a test are spans allowed to be shorter.
    """
    rows: dict[str, tuple[int, ...]] = {}
    room = budget * length
    quota = max(_SHORTEST, min(length // 2, room // CHECK_DOCUMENTS - separator))
    keys = list(documents)
    for first in range(0, len(keys), _ENCODE_BATCH):
        batch = keys[first : first + _ENCODE_BATCH]
        for key, ids in zip(batch, encoder.encode([documents[key] for key in batch]), strict=True):
            if len(ids) >= _SHORTEST and room > 0:
                rows[key] = ids
                room -= min(len(ids), quota) + separator
        if room <= 0:
            break
    return rows


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
