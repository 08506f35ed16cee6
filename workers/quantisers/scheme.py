"""The name of a weight class, as plain data: it goes into requests, keys, plans and reports."""

import re
from dataclasses import dataclass, replace

from peelbound.workers.errors import RequestError

KINDS = ("full", "binary", "binary-fbi", "ternary", "ternary-twn", "int", "gguf", "gguf-affine")
"""`full`: no grid at all; the others name a module of this package that puts dense weights on a grid."""
SCHEMES = "full, binary, binary-fbi, ternary, ternary-twn, int2 to int8, q4_0, q4_1, q5_0, q5_1, q8_0"
"""What a request may say, for messages."""

_GGUF_GROUP = 32  # a block of every legacy GGUF type (ggml-common.h: QK4_0 … QK8_0)
_GGUF = {"q4_0": ("gguf", 4), "q4_1": ("gguf-affine", 4), "q5_0": ("gguf", 5), "q5_1": ("gguf-affine", 5),
         "q8_0": ("gguf", 8)}  # fmt: skip
_TEXT = re.compile(
    r"(?P<kind>full|binary-fbi|binary|ternary-twn|ternary|int(?P<bits>[2-8])|q[458]_[01])"
    r"(?:-g(?P<group>[1-9][0-9]{0,5}))?(?P<activations>\+a8)?"
)


@dataclass(frozen=True)
class Scheme:
    """A weight class.

    Attributes:
        kind: one of `KINDS`.
        bits: of `int` and of the GGUF kinds: how many a code takes.
        group: input channels that share a scale; None: one scale per output channel, of `ternary` one per tensor.
        activation_bits: 8 where the input of every quantised linear map is rounded as well, per token; else None.
    """

    kind: str
    bits: int | None = None
    group: int | None = None
    activation_bits: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Scheme":
        """The scheme of a text such as `ternary`, `int4-g32`, `q8_0` or `ternary+a8`.

        Raises:
            RequestError: it names none (slug ``weights-scheme-unknown``).
        """
        found = _TEXT.fullmatch(text)
        name = found["kind"] if found else ""
        if (
            not found
            or (found["group"] and (name in _GGUF or name == "full"))
            or (name[:1] == "q" and name not in _GGUF)
        ):
            raise RequestError(
                f"{text[:60]!r} names no weight class.",
                slug="weights-scheme-unknown",
                remedy=f"Say one of {SCHEMES}; -g32 sets a group (not of full or q*_*), +a8 adds 8-bit activations.",
                pointer="/options/weights",
            )
        activations = 8 if found["activations"] else None
        if name in _GGUF:
            kind, bits = _GGUF[name]
            return cls(kind, bits, _GGUF_GROUP, activations)
        group = int(found["group"]) if found["group"] else None
        if found["bits"]:
            return cls("int", int(found["bits"]), group, activations)
        return cls(name, None, group, activations)

    def __str__(self) -> str:
        """The text that `parse` takes back."""
        if self.kind in ("gguf", "gguf-affine"):
            text = f"q{self.bits}_{0 if self.kind == 'gguf' else 1}"
        else:
            text = self.kind + (str(self.bits) if self.kind == "int" else "")
            text += f"-g{self.group}" if self.group else ""
        return text + ("+a8" if self.activation_bits else "")

    @property
    def full(self) -> bool:
        """Whether weights are left as they are."""
        return self.kind == "full"

    @property
    def weights(self) -> "Scheme":
        """The same without what it says of activations."""
        return replace(self, activation_bits=None)


FULL = Scheme("full")
