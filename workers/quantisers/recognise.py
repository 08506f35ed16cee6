"""Finding the grid that dense-looking weights lie on, from their values alone.

Dequantised weights betray themselves: a group of them is made of few values, whole multiples of a step. The tests here
are exact for two and three values. For k bits a weight may be off its grid by what its storage format rounds, and
chance is ruled out: as many weights as a group has would fall so near to a grid by accident less than once in e^20.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from peelbound.workers.quantisers.grid import HeldGrid, in_groups
from peelbound.workers.quantisers.scheme import Scheme

GROUPS = (256, 128, 64, 32, 16)
"""Group sizes that are tried, beside the whole channel."""
_SAMPLE_ROWS = 32
_FEWEST = 8  # weights of a group that could be on two or three values by accident
_EVIDENCE = 20.0  # nats against chance
_MOST_AFFINE = 31
_LOOSEST = 0.2  # steps: with a tolerance near half a step everything is on a grid


@dataclass(frozen=True, eq=False)
class Recognised:
    """A grid that all weights of a linear map lie on.

    Attributes:
        scheme: the weight class that has such grids.
        grid: the very one.
        values: most distinct values that a group of this map shows.
    """

    scheme: Scheme
    grid: HeldGrid
    values: int


def recognise(weight: Tensor) -> Recognised | None:
    """The coarsest grid of a weight [out, in]: fewest values first, then fewest scales; None for a dense one."""
    if not bool(torch.isfinite(weight).all()) or not bool(weight.any()):
        return None
    spread = torch.linspace(0, weight.shape[0] - 1, min(_SAMPLE_ROWS, weight.shape[0])).long()
    for candidate in _candidates(weight.shape[1]):
        # Most weights are dense, and a few rows show it.
        if held_grid(weight[spread], candidate) is not None:
            found = held_grid(weight, candidate)
            if found is not None:
                scheme = candidate
                if candidate.kind == "int":
                    scheme = Scheme("int", max(2, math.ceil(math.log2(found.levels))), candidate.group)
                return Recognised(scheme, found, _most_values(in_groups(weight, candidate.group)))
    return None


def _candidates(inputs: int) -> Iterator[Scheme]:
    groups = [None, *(g for g in GROUPS if g < inputs and inputs % g == 0)]
    yield Scheme("ternary")  # also what is binary by the tensor, until its grid is looked at
    for kind in ("binary", "ternary-twn", "binary-fbi"):
        yield Scheme(kind)
    for group in groups[1:]:
        for kind in ("binary", "ternary", "binary-fbi"):
            yield Scheme(kind, group=group)
    for group in groups:
        yield Scheme("int", 8, group)


def held_grid(weight: Tensor, scheme: Scheme) -> HeldGrid | None:
    """The grid of this class on which a weight [out, in] lies, or None where it lies on none.

    Args:
        weight: finite.
        scheme: its kind and group are looked at; of `int` and the GGUF kinds every number of bits is found.
    """
    if scheme.group is not None and weight.shape[1] % scheme.group:
        return None
    grouped = in_groups(weight, scheme.group)
    if grouped.shape[-1] < _FEWEST and scheme.kind != "ternary":
        return None
    match scheme.kind:
        case "binary":
            return _binary(grouped)
        case "binary-fbi":
            return _two_values(grouped)
        case "ternary":
            tensor = scheme.group is None
            return _ternary(grouped, grouped.abs().amax().reshape(1, 1, 1) if tensor else _largest(grouped))
        case "ternary-twn":
            return _ternary(grouped, _largest(grouped))
        case "int" | "gguf" | "gguf-affine":
            # Codes with a zero point are multiples of a step as well, of twice as many: the fewer levels are the grid.
            found = [grid for grid in (_symmetric(grouped), _affine(grouped)) if grid is not None]
            return min(found, key=lambda grid: grid.levels, default=None)
    return None


def _largest(grouped: Tensor) -> Tensor:
    return grouped.abs().amax(-1, keepdim=True)


def _binary(grouped: Tensor) -> HeldGrid | None:
    alpha = _largest(grouped)
    return HeldGrid.binary(alpha) if bool((grouped.abs() == alpha).all()) else None


def _ternary(grouped: Tensor, scale: Tensor) -> HeldGrid | None:
    on_grid = bool(((grouped == 0) | (grouped.abs() == scale)).all())
    # Without a single zero it is binary.
    return HeldGrid(scale, None, -1, 1) if on_grid and bool((grouped == 0).any()) else None


def _two_values(grouped: Tensor) -> HeldGrid | None:
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    if not bool(((grouped == low) | (grouped == high)).all()):
        return None
    return HeldGrid.binary((high - low) / 2, (high + low) / 2)


def _symmetric(grouped: Tensor) -> HeldGrid | None:
    """Whole multiples of a step, at most 2^7 of them on either side."""
    largest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))
    steps = _steps(grouped, largest, 128, _precision(grouped))
    if steps is None:
        return None
    most = int(steps.max())
    bits = max(2, math.ceil(math.log2(most)) + 1)
    half = 1 << (bits - 1)
    scale = largest / -steps  # the extreme gets a code below zero, of which there is one more
    codes = torch.where(scale == 0, 0.0, grouped / torch.where(scale == 0, 1.0, scale)).round()
    if int(codes.max()) >= half:  # both ends are used: one more bit
        bits, half = bits + 1, 2 * half
    return HeldGrid(scale, None, -half, half - 1) if bits <= 8 else None


def _affine(grouped: Tensor) -> HeldGrid | None:
    """Whole multiples of a step above the least weight, at most 31 of them."""
    low = grouped.amin(-1, keepdim=True)
    above = grouped - low
    span = above.amax(-1, keepdim=True)
    rounding = _precision(grouped) * _largest(grouped) / torch.where(span == 0, 1.0, span)
    steps = _steps(above, span, _MOST_AFFINE, rounding)
    if steps is None:
        return None
    bits = max(2, math.ceil(math.log2(int(steps.max()) + 1)))
    flat = span == 0
    scale = torch.where(flat, torch.where(low == 0, 1.0, low.abs()), span / steps)
    return HeldGrid(scale, -low / scale, 0, (1 << bits) - 1)


def _steps(grouped: Tensor, largest: Tensor, most: int, rounding: Tensor | float) -> Tensor | None:
    """The fewest steps n ≤ `most` from 0 to `largest` of which all weights of a group are whole multiples.

    Args:
        grouped: [out, groups, n].
        largest: [out, groups, 1].
        most: how many steps are tried.
        rounding: what storage rounds, relative to `largest`.

    Returns:
        [out, groups, 1], whole floats; None where a group is on no such grid, or could be by accident.
    """
    flat = torch.where(largest == 0, 1.0, largest)
    share = (grouped / flat).flatten(0, 1)  # [all groups, n]
    error = (2.1 * rounding * torch.ones_like(flat)).flatten(0, 1)  # of a weight and of the largest
    found = torch.zeros(len(share), 1, dtype=grouped.dtype, device=grouped.device)
    evidence = torch.zeros(len(share), dtype=grouped.dtype, device=grouped.device)
    rest = torch.arange(len(share), device=grouped.device)
    for n in range(1, most + 1):
        position = share[rest] * n
        tolerance = n * error[rest]
        near = ((position - position.round()).abs() <= tolerance).all(-1) & (tolerance[:, 0] < _LOOSEST)
        chosen = rest[near]
        found[chosen] = float(n)
        # The weights 0 and `largest` are on every grid.
        free = ((share[chosen] != 0) & (share[chosen].abs() != 1)).sum(-1)
        evidence[chosen] = -free * torch.log(2 * tolerance[near][:, 0]) - math.log(most)
        rest = rest[~near]
        if len(rest) == 0:
            break
    if len(rest) or float(evidence.mean()) < _EVIDENCE:
        return None
    return found.reshape(largest.shape)


def _precision(weight: Tensor) -> float:
    """Half a unit in the last place of the narrowest format that holds the weights, relative."""
    if torch.equal(weight, weight.bfloat16().to(weight.dtype)):
        return 2.0**-8
    if torch.equal(weight, weight.half().to(weight.dtype)):
        return 2.0**-11
    return 2.0**-20  # not 2^-24: the product of scale and code, or its difference from an offset, rounds as well


def _most_values(grouped: Tensor) -> int:
    ordered = grouped[: _SAMPLE_ROWS * 8].sort(-1).values
    return int((ordered.diff(dim=-1) != 0).sum(-1).max()) + 1
