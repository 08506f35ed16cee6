"""A checkpoint: opened by checking all of it but the weights, read one part at a time.

Part 0 is the rest (embedding, final norm, head), parts 1..K are the blocks.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from transformers.pytorch_utils import Conv1D

from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.config import CONFIG_FILE, checked_config, read_config
from peelbound.workers.checkpoint.encoding import Encoding, unpack
from peelbound.workers.checkpoint.gguf.config import config_of
from peelbound.workers.checkpoint.gguf.file import find
from peelbound.workers.checkpoint.gguf.file import weights as gguf_weights
from peelbound.workers.checkpoint.gguf.header import GgufHeader, read_header
from peelbound.workers.checkpoint.gguf.tokenizer import KEYS as TOKENIZER_KEYS
from peelbound.workers.checkpoint.gguf.tokenizer import tokenizer_json as gguf_tokenizer_json
from peelbound.workers.checkpoint.index import has_weights, read_tensors
from peelbound.workers.checkpoint.layout import PartLayout, lay_out
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.checkpoint.reader import Range, Reader
from peelbound.workers.checkpoint.torch_files.chunks import read_chunks
from peelbound.workers.checkpoint.torch_files.dcp import ChunkedTensor
from peelbound.workers.errors import CheckpointChanged, PeelboundError, UnsupportedModel
from peelbound.workers.keys import key_of
from peelbound.workers.source import ByteSource

TOKENIZER_FILE = "tokenizer.json"

CHECK_SECONDS = 0.2
"""How often whoever waits for a part looks whether it is still wanted."""


class Checkpoint:
    """A checked checkpoint whose parts are read on demand; thread-safe. Make one with `open`.

    Attributes:
        config: `config.json` as it was read; of a GGUF file without one, what its metadata say.
        architecture: what the config describes.
        encoding: how the weights are stored.
    """

    def __init__(
        self,
        reader: Reader,
        limits: Limits,
        config: dict[str, Any],
        architecture: Architecture,
        encoding: Encoding,
        layouts: list[PartLayout],
    ) -> None:
        self.config = config
        self.architecture = architecture
        self.encoding = encoding
        self._reader = reader
        self._limits = limits
        self._layouts = layouts
        self._digests: dict[int, str] = {}
        self._digests_lock = Lock()

    @classmethod
    def open(cls, source: ByteSource, limits: Limits = Limits()) -> "Checkpoint":  # noqa: B008 - frozen
        """Read and check config, index and headers; no weights are read.

        Raises:
            CheckpointError: the slug says what is wrong, the message names the file or the tensor.
            UnsupportedModel: the architecture cannot be peeled.
        """
        reader = Reader(source)
        header = _gguf_header(reader, limits)
        if header is None or CONFIG_FILE in reader.files:
            config = read_config(reader, limits)
        else:
            config = checked_config(config_of(header), header.file, limits)
        architecture = Architecture.from_config_json(config)
        if header is None:
            encoding, weights = unpack(config, read_tensors(reader, limits, architecture.tensor_names()))
            _refuse_transposed(architecture, encoding)
        else:
            encoding, weights = gguf_weights(header, architecture)
        layouts = lay_out(architecture, weights)
        return cls(reader, limits, config, architecture, encoding, layouts)

    @property
    def bytes_read(self) -> int:
        """Bytes read from the source so far: headers, config and parts."""
        return self._reader.bytes_read

    @property
    def part_bytes(self) -> list[int]:
        """Bytes of each part as stored, parts 0..K."""
        return [layout.bytes for layout in self._layouts]

    @property
    def total_bytes(self) -> int:
        """Bytes of all parts as stored."""
        return sum(self.part_bytes)

    @property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        return self.architecture.parameter_count()

    @property
    def dtypes(self) -> list[str]:
        """What the weights are stored as, by the names of the safetensors format."""
        return sorted({stored.dtype for layout in self._layouts for stored in layout.stored})

    def read_part(self, index: int) -> Part:
        """Read one part: 0 the rest, 1..K a block. Each of its bytes is read once and no other.

        Raises:
            CheckpointChanged: the file is not the one that was opened, or gave other bytes before.
            StorageUnavailable: the storage did not answer.
        """
        part = self._read(index, self._layouts[index])
        self._refuse_other_bytes(part)
        return part

    def read_tensor(self, index: int, name: str) -> Part:
        """Read one tensor of a part, by its name there: a part that holds nothing else.

        Raises:
            StorageUnavailable: the storage did not answer.
        """
        return self._read(index, self._layouts[index].only(name))

    def _read(self, index: int, layout: PartLayout) -> Part:
        data = np.empty(layout.bytes, np.uint8)
        pairs = list(zip(layout.stored, layout.entries, strict=True))
        plain = [(s, e) for s, e in pairs if not isinstance(s, ChunkedTensor)]
        self._reader.read_into(data, [Range(s.file, s.start, s.length, e.offset) for s, e in plain])
        chunked = [(s, data[e.offset : e.offset + e.length]) for s, e in pairs if isinstance(s, ChunkedTensor)]
        read_chunks(self._reader, chunked, self._limits)
        return Part.of(index, data, layout.entries, layout.logical)

    def read_parts(self, order: Sequence[int], check: Callable[[], None] = lambda: None) -> Iterator[Part]:
        """Read parts in this order, the next one while the caller uses the current: at most two are resident.

        Close the iterator, or use it up, before the checkpoint's source goes away.

        Args:
            order: of the parts.
            check: called a few times a second while a part is waited for; raises a `PeelboundError` to give up. What is
                being read then is read to its end in the background, and dropped.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        coming: deque[Future[Part]] = deque()
        try:
            for index in order:
                coming.append(pool.submit(self.read_part, index))
                if len(coming) == 2:
                    _await(coming[0], check)
                    yield coming.popleft().result()
            if coming:
                _await(coming[0], check)
                yield coming.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with suppress(PeelboundError):
                for future in coming:
                    _await(future, check)
                pool.shutdown()

    def digest(self, part_digests: Sequence[str]) -> str:
        """SHA-256 of the checkpoint from its config and its parts' digests, parts 0..K; sharding does not matter."""
        if len(part_digests) != len(self._layouts):
            raise ValueError(f"{len(self._layouts)} part digests are needed, not {len(part_digests)}")
        return key_of({"config": self.config, "parts": list(part_digests)})

    def tokenizer_json(self) -> bytes | None:
        """The content of `tokenizer.json`, of a GGUF file made from its metadata; None where there is no tokenizer."""
        if TOKENIZER_FILE not in self._reader.files:
            header = _gguf_header(self._reader, self._limits, keep=TOKENIZER_KEYS)
            return None if header is None else gguf_tokenizer_json(header)
        return self._reader.read_whole(
            TOKENIZER_FILE, limit=self._limits.tokenizer_bytes, slug="checkpoint-tokenizer-too-large"
        )

    def _refuse_other_bytes(self, part: Part) -> None:
        # The source notices a new version of a file; a writer that hides it from the clock is noticed here.
        with self._digests_lock:
            first = self._digests.setdefault(part.index, part.sha256)
        if first != part.sha256:
            raise CheckpointChanged(
                f"The bytes of {part.title} are not those that were read before.",
                remedy="Audit a checkpoint that nobody writes to, for instance a copy.",
                pointer="/checkpoint",
            )


def _await(future: Future[Part], check: Callable[[], None]) -> None:
    while not future.done():
        if not wait([future], timeout=CHECK_SECONDS).done:
            check()


def _gguf_header(reader: Reader, limits: Limits, keep: Container[str] = ()) -> GgufHeader | None:
    """Of the GGUF file, where the checkpoint is one; other weights beside it are taken instead."""
    if has_weights(reader.files):
        return None
    file = find(reader.files)
    return None if file is None else read_header(reader, file, limits, keep)


def _refuse_transposed(architecture: Architecture, encoding: Encoding) -> None:
    """Packed weights are [out, in]; a square one that the model holds as [in, out] could not be told by its shape."""
    if encoding.packed and any(isinstance(module, Conv1D) for module in architecture.empty_model().modules()):
        raise UnsupportedModel(
            f"{architecture.name} keeps the weights of its linear maps transposed; packed ones are not read for it.",
            slug="model-quantised",
            remedy="Audit the checkpoint before quantisation, or save it dequantised and without quantization_config.",
            pointer="/checkpoint",
        )
