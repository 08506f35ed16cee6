"""The text of an experiment: the standard library's source, or any file that a user gives."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from bench.stdlib_corpus import Corpus, library_files, write_corpus
from peelbound.workers.calibration import parse_documents

_PIECE = 3000
"""Characters of a document that is cut out of one long text."""
_HELD_OUT_SHARE = 4
"""One of so many documents of a user's text is kept from training."""
_LIBRARY_HELD_OUT = 90
"""Files of the library that are: intervals need documents, and there are more than enough."""


@dataclass(frozen=True)
class Text:
    """A corpus and its training documents once more, as calibration data: bounds in-sample need both."""

    corpus: Corpus

    @property
    def training_path(self) -> Path:
        """The training documents as JSON lines, `{"text": …}`."""
        return self.corpus.directory / "training.jsonl"

    @property
    def held_out_path(self) -> Path:
        """Documents that no training sees, as JSON lines."""
        return self.corpus.held_out_path


def prepare_text(directory: Path, file: Path | None, *, training_files: int = 30, vocabulary: int = 1024) -> Text:
    """Split a text by document, train a tokenizer on the training part and write both parts.

    Args:
        directory: where; a text that lies there already is overwritten.
        file: `.jsonl` (a document a line, member `text`) or `.txt`; None: the standard library's source.
        training_files: of the library, few enough that a run passes over them more than once, as the papers' do; a
            user's file is taken whole.
        vocabulary: pieces of the tokenizer.

    Raises:
        CalibrationError: the file is not UTF-8 or not JSON lines.
        ValueError: fewer than 12 documents.
    """
    texts = _library() if file is None else _documents(file)
    if len(texts) < 3 * _HELD_OUT_SHARE:
        raise ValueError(f"{file} holds {len(texts)} documents; at least {3 * _HELD_OUT_SHARE} are needed")
    random.Random(0).shuffle(texts)  # noqa: S311 - a reproducible split, no secret
    if file is None:
        held_out, rest = texts[:_LIBRARY_HELD_OUT], texts[_LIBRARY_HELD_OUT : _LIBRARY_HELD_OUT + training_files]
    else:
        held_out, rest = texts[: len(texts) // _HELD_OUT_SHARE], texts[len(texts) // _HELD_OUT_SHARE :]
    training = [document for document, _ in rest]
    text = Text(write_corpus(directory, training, held_out, vocabulary=vocabulary))
    with text.training_path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": document}) + "\n" for document in training)
    return text


def _library() -> list[tuple[str, str]]:
    return [(path.read_text(encoding="utf-8", errors="replace"), path.name) for path in library_files()]


def _documents(file: Path) -> list[tuple[str, str]]:
    found = [document.text or "" for document in parse_documents([(file.name, file.read_bytes())], "text")]
    texts = found if len(found) > 1 else _pieces(found[0])
    return [(text, f"{file.name}:{number}") for number, text in enumerate(texts, start=1) if text.strip()]


def _pieces(text: str) -> list[str]:
    """A long text cut at blank lines, or at line ends where it has none, into pieces of about 3000 characters."""
    parts = re.split(r"(?<=\n\n)" if "\n\n" in text else r"(?<=\n)", text)
    pieces, current = [], ""
    for part in parts:
        current += part
        if len(current) >= _PIECE:
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces
