"""Packed weights written a code at a time, straight from the descriptions of the formats and sharing no code with what
reads them. Each packer takes the weights of linear maps and gives the files' tensors and what they stand for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Packed = tuple[dict[str, Tensor], Tensor]
"""Tensors by their name in the module, and the dequantised weight [out, in]."""


def words(codes: Sequence[int], bits: int) -> list[int]:
    """Signed 32-bit words that hold the codes one after the other, lowest bits first."""
    stream = 0
    for place, code in enumerate(codes):
        assert 0 <= code < 1 << bits
        stream |= int(code) << (bits * place)
    count = -(-len(codes) * bits // 32)
    raw = stream.to_bytes(4 * count, "little")
    return [int.from_bytes(raw[4 * i : 4 * i + 4], "little", signed=True) for i in range(count)]


def rows_of_words(codes: Tensor, bits: int) -> Tensor:
    """[R, C] -> int32 [R, words]: along each row."""
    return torch.tensor([words(row, bits) for row in codes.tolist()], dtype=torch.int32)


def grouped_codes(
    weight: Tensor, bits: int, group: int, *, symmetric: bool, order: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes 0 … 2^k − 1 [out, in], scales and zeros [out, G] (half precision, whole), each column's group [in]."""
    out, inputs = weight.shape
    group_of = torch.arange(inputs) // group
    if order is not None:  # columns sorted by activation: group_of[order[i]] = i // group
        group_of = group_of.clone().scatter(0, order, group_of)
    last = (1 << bits) - 1
    scales, zeros = torch.zeros(out, inputs // group), torch.zeros(out, inputs // group)
    for g in range(inputs // group):
        columns = weight[:, group_of == g]
        low, high = columns.amin(1), columns.amax(1)
        if symmetric:
            extreme = torch.maximum(high, -low)
            scales[:, g], zeros[:, g] = 2 * extreme / last, 1 << (bits - 1)
        else:
            scales[:, g] = (high - low) / last
            zeros[:, g] = (-low / scales[:, g]).round().clamp(1, last)
    scales = scales.half().float()
    codes = (weight / scales[:, group_of] + zeros[:, group_of]).round().clamp(0, last)
    return codes, scales, zeros, group_of


def bitnet(weight: Tensor, *, divides: bool) -> Packed:
    """Four ternaries a byte: byte [r, c] holds rows r, r + R, r + 2R, r + 3R, as t + 1."""
    mean = weight.abs().mean()
    ternary = (weight / mean).round().clamp(-1, 1)
    quarter = weight.shape[0] // 4
    packed = torch.zeros(quarter, weight.shape[1], dtype=torch.uint8)
    for place in range(4):
        packed += ((ternary[place * quarter : (place + 1) * quarter] + 1) * 4**place).to(torch.uint8)
    scale = (1 / mean if divides else mean).reshape(1)
    return {"weight": packed, "weight_scale": scale}, ternary / scale if divides else ternary * scale


def gptq(weight: Tensor, bits: int, group: int, *, lowered: bool, order: Tensor | None = None) -> Packed:
    """Words down the input channels; zeros along the output channels, one less in version 1."""
    codes, scales, zeros, group_of = grouped_codes(weight, bits, group, symmetric=False, order=order)
    tensors = {
        "qweight": rows_of_words(codes.int(), bits).T.contiguous(),
        "qzeros": rows_of_words((zeros.T - int(lowered)).int(), bits),
        "scales": scales.T.contiguous().half(),
        "g_idx": group_of.int(),
    }
    return tensors, scales[:, group_of] * (codes - zeros[:, group_of])


def awq(weight: Tensor, group: int) -> Packed:
    """Nibble i of a word holds output channel AWQ_ORDER[i] of its eight."""
    codes, scales, zeros, group_of = grouped_codes(weight, 4, group, symmetric=False)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def interleaved(values: Tensor) -> Tensor:
        shuffled = values.reshape(values.shape[0], -1, 8)[:, :, order].reshape(values.shape)
        return rows_of_words(shuffled.int(), 4)

    tensors = {
        "qweight": interleaved(codes.T),
        "qzeros": interleaved(zeros.T),
        "scales": scales.T.contiguous().half(),
    }
    return tensors, scales[:, group_of] * (codes - zeros[:, group_of])


def compressed_packed(
    weight: Tensor, bits: int, group: int, *, symmetric: bool = True, order: Tensor | None = None
) -> Packed:
    """Words along the input channels, codes lifted to be positive; packed zeros along the output channels."""
    codes, scales, zeros, group_of = grouped_codes(weight, bits, group, symmetric=symmetric, order=order)
    tensors = {
        "weight_packed": rows_of_words(codes.int(), bits),
        "weight_scale": scales.half(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = rows_of_words(zeros.T.int(), bits).T.contiguous()
    if order is not None:
        tensors["weight_g_idx"] = group_of.int()
    return tensors, scales[:, group_of] * (codes - zeros[:, group_of])


def compressed_whole(weight: Tensor) -> Packed:
    """A byte a code, one scale per output channel."""
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    codes = (weight / scale.float()).round().clamp(-128, 127)
    return {"weight": codes.to(torch.int8), "weight_scale": scale}, codes * scale.float()


def fp8_tiles(weight: Tensor, tile: int, scale: str = "weight_scale_inv") -> Packed:
    """8-bit floats with a scale for each tile, the last ones cut off."""
    down, across = -(-weight.shape[0] // tile), -(-weight.shape[1] // tile)
    codes, scales, dense = torch.empty_like(weight), torch.empty(down, across), torch.empty_like(weight)
    for i in range(down):
        for j in range(across):
            here = (slice(i * tile, (i + 1) * tile), slice(j * tile, (j + 1) * tile))
            scales[i, j] = weight[here].abs().max() / 448
            codes[here] = (weight[here] / scales[i, j]).to(torch.float8_e4m3fn).float()
            dense[here] = codes[here] * scales[i, j]
    return {"weight": codes.to(torch.float8_e4m3fn), scale: scales}, dense


def fp8_channels(weight: Tensor) -> Packed:
    """8-bit floats with a scale per output channel."""
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


Packer = Callable[[Tensor], Packed]
