"""The Python standard library's own source as text to train on, and to audit with.

Every machine with Python has it, so that the demo, the tests and the benches need no download: a few megabytes of code,
and a tokenizer of 2048 pieces trained in seconds. The files are split into those that training sees and those that it
never does; the latter give the calibration documents, so that an audit may declare them `unseen`.
"""

import json
import os
import random
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

END_OF_DOCUMENT = "<eos>"
END_ID = 0

# Tables and generated text rather than code, and what Debian packages apart from the library itself.
_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
_SHORTEST_DOCUMENT = 400


@dataclass(frozen=True)
class Corpus:
    """The standard library as token ids for training and as documents that no training sees."""

    directory: Path
    """Holds `tokenizer.json`, `train.npy` and `held_out.jsonl`."""
    train: Tensor
    """[tokens] int64: the training files one after the other, each closed by `<eos>`."""

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, as the `tokenizers` library writes it."""
        return self.directory / "tokenizer.json"

    @property
    def held_out_path(self) -> Path:
        """Calibration documents as JSON lines, one for each held-out file: `{"text": …, "source": …}`."""
        return self.directory / "held_out.jsonl"

    @classmethod
    def in_directory(cls, directory: Path) -> "Corpus":
        """The corpus that lies there; it is prepared first unless it does."""
        ready = (directory / "held_out.jsonl").exists()
        return cls.load(directory) if ready else prepare_corpus(directory)

    @classmethod
    def load(cls, directory: Path) -> "Corpus":
        """Read what `prepare_corpus` wrote."""
        return cls(directory, torch.from_numpy(np.load(directory / "train.npy").astype(np.int64)))


def library_files() -> list[Path]:
    """The source files of the running Python's standard library, without tests, in a fixed order.

    Seeded splits depend on the order, which is that of the sorted paths.
    """
    found: list[Path] = []
    for folder, subfolders, names in os.walk(_library()):
        # Not walked at all: what is installed beside the library has many times as many files.
        subfolders[:] = [name for name in subfolders if name not in _EXCLUDED_FOLDERS]
        found += [Path(folder, name) for name in names if _is_source(name)]
    return sorted(path for path in found if path.stat().st_size >= _SHORTEST_DOCUMENT)


def prepare_corpus(
    directory: Path,
    *,
    vocabulary: int = 2048,
    held_out_files: int = 200,
    train_files: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Split the library's files, train the tokenizer on the training part and write both parts.

    Args:
        directory: made if absent; its files are overwritten.
        vocabulary: pieces of the byte-level BPE, `<eos>` and the 256 bytes included.
        held_out_files: files that only calibration sees, drawn at random.
        train_files: at most this many files for training; None takes all.
        seed: of the split.
    """
    chance = random.Random(seed)  # noqa: S311 - a reproducible split, no secret
    files = library_files()
    chance.shuffle(files)
    held_out, training = files[:held_out_files], files[held_out_files:][:train_files]
    return write_corpus(
        directory,
        [_read(path) for path in training],
        [(_read(path), str(path.relative_to(_library()))) for path in held_out],
        vocabulary=vocabulary,
    )


def write_corpus(
    directory: Path, training: Sequence[str], held_out: Sequence[tuple[str, str]], *, vocabulary: int
) -> Corpus:
    """Train the tokenizer on the training texts and write both parts.

    Args:
        directory: made if absent; its files are overwritten.
        training: documents for training.
        held_out: documents for calibration alone, each with where it is from.
        vocabulary: pieces of the byte-level BPE, `<eos>` and the 256 bytes included.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        training,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.save(str(directory / "tokenizer.json"))

    ids = [token for encoding in tokenizer.encode_batch(training) for token in (*encoding.ids, END_ID)]
    np.save(directory / "train.npy", np.asarray(ids, dtype=np.int32))

    with (directory / "held_out.jsonl").open("w", encoding="utf-8") as lines:
        for text, source in held_out:
            lines.write(json.dumps({"text": text, "source": source}) + "\n")
    return Corpus.load(directory)


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _is_source(name: str) -> bool:
    return name.endswith(".py") and not name.startswith("_sysconfigdata")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
