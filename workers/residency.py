"""States for a solve, as many of them on its device as there is room for; the others come when they are used.

Either way a solve gets the same numbers in the same shapes, so its bits do not depend on what is resident.
Shapes: N sequences in grains of a fixed number, T tokens, D hidden size.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from peelbound.workers.device import Download, upload
from peelbound.workers.passes import Floats, Ints

Pieces = Floats | Sequence[Floats]
"""States [N, T, D], whole or cut between sequences: shards as they come out of the object store."""


def pieces_of(states: Pieces) -> list[Floats]:
    """Their pieces."""
    return [states] if isinstance(states, np.ndarray) else list(states)


def whole(states: Pieces) -> Floats:
    """All of them in one array; no copy is made of what is one already."""
    pieces = pieces_of(states)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Held:
    """States [N, T, D] of which the first few are kept on a device."""

    def __init__(self, states: Pieces, device: torch.device, resident: int | None = None) -> None:
        """Carry those that stay to the device.

        Args:
            states: float32.
            device: where they are used.
            resident: how many sequences stay there; None: all.
        """
        self._pieces, self._device = pieces_of(states), device
        self._starts = np.cumsum([0, *map(len, self._pieces)])
        self._resident = len(self) if resident is None else min(resident, len(self))
        self._kept = self._carried(slice(0, self._resident))

    @classmethod
    def of_tensors(cls, tensors: Iterable[Tensor], shape: tuple[int, ...], device: torch.device, keep: bool) -> "Held":
        """States that are made on the device piece by piece, in order; `keep`: they all stay there."""
        kept = torch.empty(shape if keep else (0, *shape[1:]), device=device)
        found, row = Download((0, *shape[1:]) if keep else shape, device), 0
        for tensor in tensors:
            part = slice(row, row + len(tensor))
            if keep:
                kept[part] = tensor
            else:
                found.put(part, tensor)
            row = part.stop
        held = cls(found.array(), device, 0)
        if keep:
            held._starts, held._resident, held._kept = np.array([0, row]), row, kept
        return held

    def __len__(self) -> int:
        """N."""
        return int(self._starts[-1])

    @property
    def resident(self) -> bool:
        """Whether all of them stay on the device."""
        return self._resident == len(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, T, D]."""
        return (len(self), *self._kept.shape[1:])

    def rows(self, part: slice) -> Tensor:
        """Consecutive sequences on the device."""
        if part.stop <= self._resident:
            return self._kept[part]
        return self._carried(part)

    def take(self, chosen: Ints) -> Tensor:
        """Sequences by their numbers, [n] -> [n, T, D] on the device."""
        if self.resident:
            return self._kept[upload(chosen, self._device)]
        return upload(self._gathered(chosen, 1), self._device)

    def tokens(self, chosen: Ints) -> Tensor:
        """Tokens by their numbers, in the order of the sequences, [n] -> [n, D] on the device."""
        if self.resident:
            return self._kept.flatten(0, 1)[upload(chosen, self._device)]
        return upload(self._gathered(chosen, self._kept.shape[1]), self._device)

    def _gathered(self, chosen: Ints, unit: int) -> Floats:
        """Of `unit` items a sequence."""
        width = self._kept.shape[1 if unit == 1 else 2 :]
        found = np.empty((len(chosen), *width), np.float32)
        for start, piece in zip(self._starts * unit, self._pieces, strict=False):
            items = piece.reshape(-1, *width)
            inside = (chosen >= start) & (chosen < start + len(items))
            found[inside] = items[chosen[inside] - start]
        return found

    def _carried(self, part: slice) -> Tensor:
        """Sequences out of the pieces, copied to the device."""
        cut = [
            piece[max(0, part.start - start) : part.stop - start]
            for start, piece in zip(self._starts, self._pieces, strict=False)
            if start < part.stop and part.start < start + len(piece)
        ] or [self._pieces[0][:0]]
        if self._device.type == "cpu":
            return upload(whole(cut), self._device)
        carried = torch.empty((part.stop - part.start, *cut[0].shape[1:]), device=self._device)
        row = 0
        for piece in cut:  # one at a time: pinned memory is taken for each alone
            carried[row : row + len(piece)].copy_(upload(piece, self._device))
            row += len(piece)
        return carried
