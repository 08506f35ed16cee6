"""From the tensors of the files to the parts: what is read for each, and how its tensors are made of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.decoders import PLAIN, Decoder, Fuse, Fused
from peelbound.workers.checkpoint.header import ITEM_BYTES, StoredTensor
from peelbound.workers.checkpoint.part import WEIGHT_DTYPES, LogicalTensor, TensorEntry
from peelbound.workers.errors import CheckpointError


@dataclass(frozen=True)
class Weight:
    """A weight as the files hold it: one stored tensor, or several that a decoder makes one of.

    Attributes:
        shape: once decoded.
        decoder: how it is made.
        stored: of what, in the decoder's order.
    """

    shape: tuple[int, ...]
    decoder: Decoder
    stored: tuple[StoredTensor, ...]

    @classmethod
    def plain(cls, stored: StoredTensor) -> "Weight":
        """A weight in full precision."""
        return cls(stored.shape, PLAIN, (stored,))


@dataclass(frozen=True)
class Placed:
    """A tensor of the model and the weights that it is made of.

    Attributes:
        part: 0 for the rest, 1..K for a block.
        name: within the part.
        weights: one, or those that `fuse` makes one of, in its order.
        fuse: None for one weight that is taken as it is.
    """

    part: int
    name: str
    weights: tuple[Weight, ...]
    fuse: Fuse | None = None

    @property
    def decoder(self) -> Decoder:
        """How the tensor is made of all its stored tensors."""
        if self.fuse is None:
            return self.weights[0].decoder
        return Fused(tuple(w.decoder for w in self.weights), tuple(len(w.stored) for w in self.weights), self.fuse)

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """All of them, in the decoder's order."""
        return tuple(stored for weight in self.weights for stored in weight.stored)


@dataclass(frozen=True)
class PartLayout:
    """What is read for a part, where it goes, and what is made of it.

    Attributes:
        stored: what is read, in the order of the part's bytes.
        entries: the same, as the part knows it.
        logical: the model's tensors.
    """

    stored: tuple[StoredTensor, ...]
    entries: tuple[TensorEntry, ...]
    logical: tuple[LogicalTensor, ...]

    @property
    def bytes(self) -> int:
        """As stored."""
        return sum(stored.length for stored in self.stored)

    def only(self, name: str) -> "PartLayout":
        """A part of one of the model's tensors alone, by its name within the part."""
        chosen = next(tensor for tensor in self.logical if tensor.name == name)
        entries, offset = list[TensorEntry](), 0
        kept = sorted(chosen.sources)  # in the order of the bytes, which keeps every tensor aligned
        for source in kept:
            entries.append(replace(self.entries[source], offset=offset))
            offset += self.entries[source].length
        sources = tuple(kept.index(source) for source in chosen.sources)
        stored = tuple(self.stored[source] for source in kept)
        return PartLayout(stored, tuple(entries), (replace(chosen, sources=sources),))


def lay_out(architecture: Architecture, weights: Mapping[str, Weight]) -> list[PartLayout]:
    """Give each weight of the files its place: parts 0..K.

    What the architecture does not place (attention-mask buffers in old files) is not read.

    Raises:
        CheckpointError: what `Architecture.place` raises, or ``checkpoint-dtype-unsupported``.
    """
    placements = architecture.place({name: weight.shape for name, weight in weights.items()})
    placed = [Placed(p.part, p.name, tuple(weights[n] for n in p.stored), p.conversion) for p in placements]
    parts: list[list[Placed]] = [[] for _ in range(architecture.block_count + 1)]
    for tensor in placed:
        for weight in tensor.weights:
            _check_dtype(weight)
        parts[tensor.part].append(tensor)
    return [in_order(part) for part in parts]


def _check_dtype(weight: Weight) -> None:
    if weight.decoder == PLAIN and weight.stored[0].dtype not in WEIGHT_DTYPES:
        stored = weight.stored[0]
        raise CheckpointError(
            f"{stored.file}: the weight {stored.name} is stored as {stored.dtype}.",
            slug="checkpoint-dtype-unsupported",
            remedy="Save the weights as float32, float16 or bfloat16, or add the quantization_config of their packing.",
            pointer="/checkpoint",
        )


def in_order(part: Iterable[Placed]) -> PartLayout:
    """Widest dtype first, then by name in the files: the reference writer's own order, so that neighbours are read
    together, the experts of a layer too.
    """
    tensors = sorted(part, key=lambda tensor: tensor.name)
    names: dict[StoredTensor, str] = {}
    for tensor in tensors:
        for stored, name in zip(tensor.stored, _entry_names(tensor), strict=True):
            names.setdefault(stored, name)  # a stored tensor that is split among several is read once
    order = sorted(names.items(), key=lambda item: (-ITEM_BYTES.get(item[0].dtype, 1), item[0].name))
    entries, offset = [], 0
    for stored, name in order:
        entries.append(TensorEntry(name, stored.dtype, stored.shape, offset, stored.length))
        offset += stored.length
    places = {stored: place for place, (stored, _) in enumerate(order)}
    logical = [LogicalTensor(t.name, t.decoder, tuple(places[stored] for stored in t.stored)) for t in tensors]
    logical.sort(key=lambda tensor: tensor.sources)
    return PartLayout(tuple(stored for stored, _ in order), tuple(entries), tuple(logical))


def _entry_names(tensor: Placed) -> list[str]:
    """Of its stored tensors within the part: its own name; of several, with what each adds (`…weight:scales`)."""
    if len(tensor.stored) == 1:
        return [tensor.name]
    roles = [stored.name.rpartition(".")[2] for stored in tensor.stored]
    if len(set(roles)) < len(roles):
        roles = [str(place) for place in range(len(roles))]
    return [f"{tensor.name}:{role}" for role in roles]
