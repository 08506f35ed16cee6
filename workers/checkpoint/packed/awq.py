"""AWQ in its GEMM layout: eight 4-bit codes a word along the output channels, in an interleaved order.

Source: AutoAWQ 0.2.9 (`awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`: `AWQ_ORDER`, `dequantize_gemm`). The
method: Lin et al. 2023, arXiv 2306.00978. Of a map from `in` to `out` channels with G groups:

- `qweight` int32 [in, out/8], `qzeros` int32 [G, out/8] (the zero points themselves), `scales` [G, out].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peelbound.workers.checkpoint.decoders import RawTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed.codes import CodedDecoder, int32, unpack_words
from peelbound.workers.checkpoint.packed.stored import FLOATS, Stored, expect, groups_of, matrix
from peelbound.workers.quantisers.grid import HeldGrid

BITS = 4
PER_WORD = 8
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in its word each output channel lies: AutoAWQ's AWQ_REVERSE_ORDER."""


@dataclass(frozen=True)
class Awq(CodedDecoder):
    """Of `qweight`, `qzeros` and `scales`."""

    def codes(self, raw: Sequence[RawTensor]) -> Tensor:
        """0 to 15."""
        return torch.from_numpy(_unpack(int32(raw[0])).T.astype(np.float32))

    def grid(self, raw: Sequence[RawTensor]) -> HeldGrid:
        """Scales and zeros per group."""
        zero = torch.from_numpy(_unpack(int32(raw[1])).T.astype(np.float32)).unsqueeze(-1)
        return HeldGrid(raw[2].float32().T.unsqueeze(-1).contiguous(), zero, 0, (1 << BITS) - 1)


def weights(stored: Stored, *, group: int | None) -> dict[str, Weight]:
    """Every linear map that has a `qweight`.

    Args:
        stored: what the files hold; what is used is taken.
        group: input channels per scale; None: all.
    """
    found = {}
    for module in stored.modules("qweight"):
        qweight = matrix(stored.take(module, "qweight", "I32"))
        inputs, words = qweight.shape
        groups = groups_of(module, inputs, group)
        parts = (
            qweight,
            expect(stored.take(module, "qzeros", "I32"), (groups, words)),
            expect(stored.take(module, "scales", *FLOATS), (groups, words * PER_WORD)),
        )
        found[f"{module}.weight"] = Weight((words * PER_WORD, inputs), Awq(), parts)
    return found


def _unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """[R, W] -> [R, 8 W], output channels in order."""
    nibbles = unpack_words(words, BITS).reshape(words.shape[0], -1, PER_WORD)
    return nibbles[:, :, _PLACES].reshape(words.shape[0], -1)
