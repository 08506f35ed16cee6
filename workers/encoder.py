"""Calibration documents as token ids of the model's vocabulary."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tokenizers import Encoding, Tokenizer

from peelbound.workers.errors import CalibrationError
from peelbound.workers.panics import panics_caught

_BATCH = 64
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


def without_end(ids: tuple[int, ...], eos_id: int | None) -> tuple[int, ...]:
    """The ids before the end-of-text tokens that close them, as some corpora write them."""
    end = len(ids)
    while end and ids[end - 1] == eos_id:
        end -= 1
    return ids[:end]


class Encoder:
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

    def rows(self, documents: Mapping[str, Document]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Key and ids of each document, without end-of-text tokens at the end (packing puts one there).

        Documents are tokenised as far as somebody asks, a batch at a time.
        """
        left = iter(documents.items())
        while batch := dict(islice(left, _BATCH)):
            yield from zip(batch, self._rows(list(batch.values())), strict=True)

    def _rows(self, documents: Sequence[Document]) -> list[tuple[int, ...]]:
        texts = [document.text for document in documents if document.text is not None]
        encoded = iter(self._encode(self._load(documents), texts) if texts else ())
        rows = []
        for document in documents:
            ids = document.ids
            if ids is None:
                ids = tuple(next(encoded).ids)
                self._check(document, ids)
            rows.append(without_end(ids, self.eos_id))
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
