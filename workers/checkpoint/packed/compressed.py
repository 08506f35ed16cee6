"""compressed-tensors: packed or whole integer codes per output channel, or 8-bit floats, with scales beside them.

Source: compressed-tensors 0.20 (`compressors/pack_quantized`, `compressors/naive_quantized`,
`quantization/lifecycle/forward.py`). Of a map from `in` to `out` channels with G groups, k bits:

- packed: `weight_packed` int32 [out, ⌈in·k/32⌉], lowest bits first, code + 2^(k−1); `weight_shape` [2];
  `weight_zero_point` int32 [⌈out·k/32⌉, G], words along `out`, or int8 [out, G].
- whole: `weight` int8 or fp8 [out, in].
- both: `weight_scale` [out, G], [out, 1] or [1], `weight_g_idx` int32 [in] where columns were ordered by activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelbound.workers.checkpoint.decoders import RawTensor, Undecodable
from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed import fp8
from peelbound.workers.checkpoint.packed.codes import (
    WORD_BITS,
    CodedDecoder,
    by_column,
    in_order,
    int32,
    unpack_words,
    words_for,
)
from peelbound.workers.checkpoint.packed.stored import FLOATS, Stored, expect, groups_of, matrix
from peelbound.workers.errors import CheckpointError
from peelbound.workers.quantisers.grid import HeldGrid

BYTE_BITS = 8

_UNREAD = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
"""Calibrated scales of activations, on which no weight depends."""


@dataclass(frozen=True)
class Layout:
    """What one group of the config says of the maps that it targets.

    Attributes:
        bits: of a code.
        group: input channels per scale; None: one scale per output channel or per tensor.
    """

    bits: int
    group: int | None


@dataclass(frozen=True)
class Compressed(CodedDecoder):
    """Of `weight_packed` and `weight_shape`, or `weight`; `weight_scale`; `weight_zero_point` and `weight_g_idx`.

    Attributes:
        bits: of a code.
        shape: [out, in].
        packed: whether the codes are in words.
        packed_zero: None without zero points, else whether they are in words.
        indexed: whether there is a `weight_g_idx`.
    """

    bits: int
    shape: tuple[int, int]
    packed: bool
    packed_zero: bool | None
    indexed: bool

    def codes(self, raw: Sequence[RawTensor]) -> Tensor:
        """−2^(k−1) to 2^(k−1) − 1."""
        if not self.packed:
            return raw[0].tensor().float()
        said = tuple(raw[1].tensor().tolist())
        if said != self.shape:
            raise Undecodable(
                f"its weight_shape says {list(said)}, its packed codes are {list(self.shape)}",
                slug="checkpoint-packed-shape",
            )
        return self._lifted(unpack_words(int32(raw[0]), self.bits)[:, : self.shape[1]])

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid:
        """Scales and zeros per group, per output channel or per tensor; per column where columns were ordered."""
        rest = list(raw[2:] if self.packed else raw[1:])
        scale, zero = _broadcast(rest.pop(0).float32()), None
        if self.packed_zero is not None:
            zero = _broadcast(self._zeros(rest.pop(0)))
        if self.indexed:
            groups = rest.pop(0).tensor()
            unset = bool((groups == -1).all())  # the library's own mark
            if not unset and not in_order(groups, self.shape[1] // scale.shape[1]):
                scale = by_column(scale, groups)
                zero = None if zero is None else by_column(zero, groups)
        half = 1 << (self.bits - 1)
        return HeldGrid(scale, zero, -half, half - 1)

    def _zeros(self, raw: RawTensor) -> Tensor:
        if not self.packed_zero:
            return raw.tensor().float()
        return self._lifted(unpack_words(int32(raw).T, self.bits)[:, : self.shape[0]].T)

    def _lifted(self, codes: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(codes.astype(np.float32)) - (1 << (self.bits - 1))


def weights(stored: Stored, layouts: Sequence[Layout], tile: tuple[int, int] | None = None) -> dict[str, Weight]:
    """Every linear map that has a `weight_packed`, or a `weight_scale` beside its `weight`.

    Args:
        stored: what the files hold; what is used is taken.
        layouts: those that the config names; a weight has the one that fits its width.
        tile: rows and columns of 8-bit floats that share a scale; None: by channel or tensor.
    """
    found = {}
    for module in stored.modules("weight_packed"):
        found[f"{module}.weight"] = _packed(stored, module, layouts)
        stored.drop(module, *_UNREAD)
    for module in stored.modules("weight_scale"):
        found[f"{module}.weight"] = _whole(stored, module, layouts, tile)
        stored.drop(module, *_UNREAD)
    return found


def _packed(stored: Stored, module: str, layouts: Sequence[Layout]) -> Weight:
    packed = matrix(stored.take(module, "weight_packed", "I32"))
    scale = matrix(stored.take(module, "weight_scale", *FLOATS))
    outputs, words = packed.shape
    widths = {}
    for layout in layouts:
        inputs = words * WORD_BITS // layout.bits if layout.group is None else scale.shape[1] * layout.group
        if words_for(inputs, layout.bits) == words and (layout.group is not None or scale.shape[1] == 1):
            widths[layout] = inputs
    if len(widths) != 1:
        raise CheckpointError(
            f"{packed.file}: {packed.name} of shape {list(packed.shape)} with scales of shape {list(scale.shape)} fits "
            f"{len(widths)} of the {len(layouts)} groups of quantization_config, and must fit one.",
            slug="checkpoint-packed-shape",
            remedy="Check num_bits and group_size in quantization_config against the tool that packed the weights.",
            pointer="/checkpoint",
        )
    (layout, inputs), *_ = widths.items()
    groups = groups_of(module, inputs, layout.group)
    parts = [packed, expect(stored.take(module, "weight_shape", "I64", "I32"), (2,)), expect(scale, (outputs, groups))]
    zero = _zero(stored, module, parts, (outputs, groups), layout.bits)
    indexed = _index(stored, module, parts, inputs)
    decoder = Compressed(layout.bits, (outputs, inputs), True, zero, indexed)
    return Weight((outputs, inputs), decoder, tuple(parts))


def _whole(stored: Stored, module: str, layouts: Sequence[Layout], tile: tuple[int, int] | None) -> Weight:
    if stored.dtype(module, "weight") in fp8.DTYPES:
        return fp8.weight(stored, module, "weight_scale", tile)
    weight = matrix(stored.take(module, "weight", "I8"))
    outputs, inputs = weight.shape
    scale = stored.take(module, "weight_scale", *FLOATS)
    grouped = sorted({groups_of(module, inputs, layout.group) for layout in layouts})
    parts = [
        weight,
        expect(scale, *((outputs, groups) for groups in grouped), (outputs, 1), (outputs,), (1, 1), (1,), ()),
    ]
    zero = _zero(stored, module, parts, scale.shape, BYTE_BITS)
    indexed = _index(stored, module, parts, inputs)
    # Codes of fewer bits are stored in a byte as well; the narrowest layout would cut a wider one's codes.
    bits = max((layout.bits for layout in layouts), default=BYTE_BITS)
    return Weight(weight.shape, Compressed(bits, (outputs, inputs), False, zero, indexed), tuple(parts))


def _zero(stored: Stored, module: str, parts: list[StoredTensor], shape: tuple[int, ...], bits: int) -> bool | None:
    """Take the zero points if there are any; whether they are in words."""
    if not stored.has(module, "weight_zero_point"):
        return None
    zero = stored.take(module, "weight_zero_point", "I32", "I8")
    in_words = zero.dtype == "I32"
    parts.append(expect(zero, (words_for(shape[0], bits), *shape[1:]) if in_words else shape))
    return in_words


def _index(stored: Stored, module: str, parts: list[StoredTensor], inputs: int) -> bool:
    if not stored.has(module, "weight_g_idx"):
        return False
    parts.append(expect(stored.take(module, "weight_g_idx", "I32"), (inputs,)))
    return True


def _broadcast(values: Tensor) -> Tensor:
    """Scales [out, G], [out, 1], [out], [1] or [] as [out or 1, G or 1, 1]."""
    return values.reshape(*values.shape, 1) if values.ndim == 2 else values.reshape(-1, 1, 1)
