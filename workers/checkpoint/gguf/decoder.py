"""Dequantising a GGUF tensor, and the grid that its values lie on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from peelbound.workers.checkpoint.decoders import Decoder, RawTensor
from peelbound.workers.quantisers.grid import HeldGrid

FULL_TYPES = ("F32", "F16", "BF16")

_TURNED = ("attn_qkv.weight", "ffn_up.weight", "ffn_down.weight", "attn_output.weight")
"""What gpt2 keeps as [in, out]: the library's GPT2TensorProcessor."""


@dataclass(frozen=True)
class _Levels:
    """How a type's values are spaced.

    Attributes:
        group: input channels that share a scale.
        count: of codes.
        codes: where in a block's bytes they lie, and nothing else.
        affine: values have an offset besides a scale.
    """

    group: int
    count: int
    codes: slice
    affine: bool


_LEVELS = {
    "Q4_0": _Levels(32, 16, slice(2, 18), affine=False),
    "Q4_1": _Levels(32, 16, slice(4, 20), affine=True),
    "Q5_0": _Levels(32, 32, slice(2, 22), affine=False),
    "Q5_1": _Levels(32, 32, slice(4, 24), affine=True),
    "Q2_K": _Levels(16, 4, slice(16, 80), affine=True),
    "Q3_K": _Levels(16, 8, slice(0, 96), affine=False),
    "Q4_K": _Levels(32, 16, slice(16, 144), affine=True),
    "Q5_K": _Levels(32, 32, slice(16, 176), affine=True),
    "Q6_K": _Levels(16, 64, slice(0, 192), affine=False),
}
"""ggml-common.h, the structs `block_q4_0` to `block_q6_K`: scales and offsets stand before or behind the codes."""
_ONE_SCALE = {"Q8_0": (slice(0, 2), -128, 127), "TQ1_0": (slice(52, 54), -1, 1), "TQ2_0": (slice(64, 66), -1, 1)}
"""Types with one fp16 scale a block: where it lies, smallest and largest code."""

_ROW_BLOCKS = 1024
"""The package takes 16 rows at a time, which for a matrix as it is, or for single blocks, is mostly its own calls: rows
of so many blocks take a seventh of the time for a block of a 135M model in Q4_1, and two megabytes a piece."""


@dataclass(frozen=True)
class Gguf(Decoder):
    """One stored tensor, of any type.

    Attributes:
        architecture: the file's.
        name: within its block (`attn_q.weight`), or outside them.
        heads: query and key-value heads: some converters order the rows of a head otherwise.
        width: of the hidden state.
    """

    architecture: str
    name: str
    heads: tuple[int, int]
    width: int

    @property
    def changes(self) -> bool:
        """Whether the library does more than to dequantise."""
        return self.architecture in TENSOR_PROCESSORS

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The model's shape of a tensor that is stored in this one."""
        if self.architecture == "gpt2" and self.name in _TURNED:
            return stored[::-1]
        if "ffn_gate_inp_shexp" in self.name and len(stored) == 1:
            return (1, *stored)
        return stored

    def decode(self, raw: Sequence[RawTensor]) -> Tensor:
        """The weights as the library's model has them, in fp32."""
        values = dequantised(raw[0])
        grid = _grid(raw[0])
        if grid is not None and _LEVELS.get(raw[0].dtype, _PLAIN).affine:
            # d·q + m is rounded twice, d·(q + m/d) once more or less: taken as the grid has it, it stays on the grid.
            values = grid.quantise(torch.from_numpy(values)).numpy()
        return torch.from_numpy(np.ascontiguousarray(self._processed(values), np.float32))

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid | None:
        """Of matrices in the types that are spaced equally; the rows in the model's order."""
        if self.architecture == "bloom" and self.name.startswith("attn_qkv"):
            return None
        grid = _grid(raw[0])
        if grid is None or self.architecture == "gpt2":
            return grid
        zero = None if grid.zero is None else self._rows(grid.zero)
        return HeldGrid(self._rows(grid.scale), zero, grid.low, grid.high)

    def _rows(self, values: Tensor) -> Tensor:
        ordered = self._processed(values.squeeze(-1).numpy())
        return torch.from_numpy(np.ascontiguousarray(ordered)).unsqueeze(-1)

    def _processed(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the library does after dequantising: rows of a head reordered, norms lowered by one, maps turned."""
        if self.name in ("output.weight", "token_embd.weight"):
            return values
        if "ffn_gate_inp_shexp" in self.name and values.ndim == 2:  # the library makes a matrix of it, which it is
            return values
        config = {
            "num_attention_heads": self.heads[0],
            "num_key_value_heads": self.heads[1],
            "n_head": self.heads[0],
            "hidden_size": self.width,
        }
        kind: Any = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)
        processor = kind(config=config)
        processed: NDArray[np.float32] = processor.process(weights=values, name=f"blk.0.{self.name}").weights
        return processed


_PLAIN = _Levels(1, 1, slice(0), affine=False)


def dequantised(raw: RawTensor) -> NDArray[np.float32]:
    """Any type as fp32, by the gguf package."""
    number = gguf.GGMLQuantizationType[raw.dtype]
    return _values(raw.data.reshape(-1, GGML_QUANT_SIZES[number][1]), number).reshape(raw.shape)


def _values(blocks: NDArray[np.uint8], number: gguf.GGMLQuantizationType) -> NDArray[np.float32]:
    """Blocks [n, bytes] as their values, one after the other, in rows of our choice: each block is on its own."""
    whole = len(blocks) // _ROW_BLOCKS * _ROW_BLOCKS
    rows = blocks[:whole].reshape(-1, _ROW_BLOCKS * blocks.shape[1]), blocks[whole:].reshape(1, -1)
    with np.errstate(all="ignore"):  # a NaN scale is found in the values
        return np.concatenate([gguf.dequantize(row, number).ravel() for row in rows if row.size])


def _grid(raw: RawTensor) -> HeldGrid | None:
    """The grid of a matrix as stored, or None.

    Scale and offset of a group are read off its smallest and its largest value, which the package gives for blocks
    whose codes are all zeros and all ones: the same code for every layout of scales.
    """
    if len(raw.shape) != 2 or not (raw.dtype in _LEVELS or raw.dtype in _ONE_SCALE):
        return None
    number = gguf.GGMLQuantizationType[raw.dtype]
    size = GGML_QUANT_SIZES[number][1]
    blocks = raw.data.reshape(-1, size)
    out = raw.shape[0]
    if raw.dtype in _ONE_SCALE:
        place, least, most = _ONE_SCALE[raw.dtype]
        halves = np.ascontiguousarray(blocks[:, place]).view("<f2").astype(np.float32)
        return HeldGrid(torch.from_numpy(halves.reshape(out, -1, 1)), None, least, most)
    levels = _LEVELS[raw.dtype]
    ends = []
    for code in (0x00, 0xFF):
        same = blocks.copy()
        same[:, levels.codes] = code
        values = _values(same, number).reshape(-1, levels.group)[:, 0]
        ends.append(torch.from_numpy(values.reshape(out, -1, 1)))
    low, high = ends
    step = (high - low) / (levels.count - 1)
    scale = torch.where(step == 0, 1.0, step)  # one value for all codes: it is the offset
    return HeldGrid(scale, -low / scale, 0, levels.count - 1)
