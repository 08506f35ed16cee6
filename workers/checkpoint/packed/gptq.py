"""GPTQ: codes of a linear map in 32-bit words down its input channels, scales and zero points per group.

Sources: AutoGPTQ (`QuantLinear.pack`) and GPTQModel 7.7 (`utils/model.py`, `convert_gptq_v1_to_v2_format_module`);
auto-round 0.16 writes the same (`qlinear_torch.py`, `qlinear_torch_zp.py`). The method: Frantar et al. 2022, arXiv
2210.17323. Of a map from `in` to `out` channels with G groups, k bits:

- `qweight` int32 [in·k/32, out]: words along `in`, lowest bits first; 3 bits run across words.
- `qzeros` int32 [G, out·k/32]: words along `out`; version 1 stores zero − 1, version 2 the zero.
- `scales` [G, out]; `g_idx` int32 [in]: each input channel's group (absent: in / G neighbours make one).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from peelbound.workers.checkpoint.decoders import RawTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed.codes import CodedDecoder, by_column, in_order, int32, unpack_words, words_for
from peelbound.workers.checkpoint.packed.stored import FLOATS, Stored, expect, groups_of, matrix
from peelbound.workers.quantisers.grid import HeldGrid

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq(CodedDecoder):
    """Of `qweight`, `qzeros`, `scales` and, where there is one, `g_idx`.

    Attributes:
        bits: of a code.
        group: input channels per scale.
        outputs: output channels.
        lowered: the stored zero points are one too small (version 1).
    """

    bits: int
    group: int
    outputs: int
    lowered: bool

    def codes(self, raw: Sequence[RawTensor]) -> Tensor:
        """0 to 2^k − 1."""
        return torch.from_numpy(unpack_words(int32(raw[0]).T, self.bits).astype(np.float32))

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid:
        """Scales and zeros per group; per column where `g_idx` is not in order."""
        last = (1 << self.bits) - 1
        stored = unpack_words(int32(raw[1]), self.bits)[:, : self.outputs]
        # Within the code's bits, as the kernels do: a zero point of 0 is stored as the largest code.
        zeros = (stored + np.uint8(self.lowered)) & np.uint8(last)
        zero = torch.from_numpy(zeros.astype(np.float32)).T.unsqueeze(-1)
        scale = raw[2].float32().T.unsqueeze(-1)
        if len(raw) > 3:
            groups = raw[3].tensor()
            if not in_order(groups, self.group):
                scale, zero = by_column(scale, groups), by_column(zero, groups)
        return HeldGrid(scale.contiguous(), zero.contiguous(), 0, last)


def weights(stored: Stored, *, bits: int, group: int | None, lowered: bool) -> dict[str, Weight]:
    """Every linear map that has a `qweight`.

    Args:
        stored: what the files hold; what is used is taken.
        bits: of a code.
        group: input channels per scale; None: all.
        lowered: see `Gptq`.
    """
    found = {}
    for module in stored.modules("qweight"):
        qweight = matrix(stored.take(module, "qweight", "I32"))
        inputs, outputs = qweight.shape[0] * 32 // bits, qweight.shape[1]
        expect(qweight, (words_for(inputs, bits), outputs))
        groups = groups_of(module, inputs, group)
        parts = [
            qweight,
            expect(stored.take(module, "qzeros", "I32"), (groups, words_for(outputs, bits))),
            expect(stored.take(module, "scales", *FLOATS), (groups, outputs)),
        ]
        if stored.has(module, "g_idx"):
            parts.append(expect(stored.take(module, "g_idx", "I32"), (inputs,)))
        decoder = Gptq(bits, group or inputs, outputs, lowered)
        found[f"{module}.weight"] = Weight((outputs, inputs), decoder, tuple(parts))
    return found
