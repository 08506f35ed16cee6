"""Which weight class a checkpoint is of: from what its config declares, what its weights show and what is asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from peelbound.workers.checkpoint.encoding import Encoding
from peelbound.workers.errors import RequestError
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.grid import HeldGrid, in_groups
from peelbound.workers.quantisers.recognise import Recognised, recognise
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import WeightClass


@dataclass(frozen=True)
class Finding:
    """A checkpoint's weight class, and what speaks for it.

    Attributes:
        weights: the class.
        certainty: `packed`: the file format says it; `seen`: every weight was looked at; `declared`: config or
            request say it and the weights cannot contradict, being latent; `none`: nothing speaks for a class.
        why: what was seen or declared, in words and numbers.
        maps: linear maps of block 1 that are of the class.
        all_maps: linear maps of block 1.
        parameters: of block 1's restricted maps.
    """

    weights: WeightClass
    certainty: str
    why: str
    maps: int
    all_maps: int
    parameters: int

    def as_json(self) -> dict[str, Any]:
        """Plain data, to be remembered."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Finding":
        """What `as_json` gave."""
        held = value["weights"]
        weights = WeightClass(Scheme(**held["scheme"]), held["latent"], tuple(held["full_maps"]))
        return cls(**{**value, "weights": weights})


@dataclass(frozen=True)
class _Seen:
    """What the linear maps of a block show."""

    sizes: dict[str, int]
    """Parameters by map."""
    grids: dict[str, Recognised]
    packed: frozenset[str]

    @property
    def on_grid(self) -> set[str]:
        return set(self.grids) | self.packed


def detect(
    maps: Sequence[LinearMap],
    tensors: Mapping[str, Tensor],
    grids: Mapping[str, HeldGrid],
    declared: Encoding,
    asked: Scheme | None,
) -> Finding:
    """The weight class of a model, from its first block.

    Args:
        maps: linear maps of the block.
        tensors: the block's weights, dequantised where packed.
        grids: of the packed ones.
        declared: by config and files.
        asked: by the request; None leaves it to what is found.

    Raises:
        RequestError: what is asked contradicts the weights (slug ``weights-scheme-contradicted``), or its groups do
            not divide their input channels (``weights-group-indivisible``).
        CheckpointError: scales that are not finite (``weights-scales-not-finite``).
    """
    rows = {linear.name: linear.matrices(tensors[linear.name]) for linear in maps}
    for name, grid in grids.items():
        grid.checked(name)
    if asked is not None and not asked.full:
        for matrices in rows.values():
            in_groups(matrices[0], asked.group)
    seen = _Seen(
        {name: matrices.numel() for name, matrices in rows.items()},
        # Of experts the first: the others are looked at when their block is solved.
        {name: found for name, m in rows.items() if name not in grids and (found := recognise(m[0])) is not None},
        frozenset(grids) & frozenset(rows),
    )
    if asked is not None:
        return _asked(asked, seen, declared)
    if seen.packed:
        return _packed(seen, grids, declared)
    if seen.grids:
        return _recognised(seen, declared)
    if declared.scheme is not None and not declared.packed:
        why = f"{declared.detail} The weights themselves lie on no grid."
        return _of(WeightClass(declared.scheme, latent=True), "declared", why, seen, set(seen.sizes))
    coarse = all(torch.equal(matrices[0], matrices[0].bfloat16().float()) for matrices in rows.values())
    return _dense(seen, declared, coarse=coarse)


def _dense(seen: _Seen, declared: Encoding, *, coarse: bool) -> Finding:
    why = f"None of the {len(seen.sizes)} linear maps of block 1 lies on a grid."
    if coarse:
        why += " One of 6 bits or more would not show in bfloat16."
    return _of(WeightClass(), "none", f"{declared.detail} {why}", seen, set())


def _of(weights: WeightClass, certainty: str, why: str, seen: _Seen, names: set[str]) -> Finding:
    parameters = sum(seen.sizes[name] for name in names)
    return Finding(weights, certainty, why, len(names), len(seen.sizes), parameters)


def _recognised(seen: _Seen, declared: Encoding) -> Finding:
    scheme = _most_common(seen)
    if declared.scheme is not None and _holds(declared.scheme, scheme):
        scheme = declared.scheme
    names = seen.on_grid
    most = max(found.values for found in seen.grids.values())
    per = "per tensor" if scheme.kind == "ternary" and scheme.group is None else f"per {_unit(scheme)}"
    why = f"{_share(names, seen)} of block 1: at most {most} distinct values {per}."
    others = Counter(str(f.scheme) for f in seen.grids.values())
    if len(others) > 1:
        why += f" Seen were {', '.join(f'{text} ({n})' for text, n in sorted(others.items()))}."
    if declared.scheme is not None:
        why = f"{declared.detail} {why}"
    return _of(WeightClass(scheme, False, _rest(seen, names)), "seen", why, seen, names)


def _packed(seen: _Seen, grids: Mapping[str, HeldGrid], declared: Encoding) -> Finding:
    levels = max(grids[name].levels for name in seen.packed)
    scheme = declared.scheme or _scheme_of(grids, seen)
    names = seen.on_grid
    why = f"{declared.detail} "
    why += f"{_share(names, seen)} of block 1: stored as codes of at most {levels} values."
    return _of(WeightClass(scheme, False, _rest(seen, names)), "packed", why, seen, names)


def _scheme_of(grids: Mapping[str, HeldGrid], seen: _Seen) -> Scheme:
    """A scheme for fresh blocks beside packed ones whose format names none of ours."""
    name = max(seen.packed, key=lambda n: (seen.sizes[n], n))
    grid = grids[name]
    group = None
    if grid.scale.shape[1] > 1:
        group = seen.sizes[name] // (grid.scale.shape[0] * grid.scale.shape[1])
    if grid.levels <= 3:
        return Scheme("binary" if grid.levels == 2 else "ternary", group=group)
    return Scheme("int", min(8, (grid.levels - 1).bit_length()), group)


def _asked(asked: Scheme, seen: _Seen, declared: Encoding) -> Finding:
    if asked.full:
        why = "The request says full; solved blocks are not restricted."
        return _of(WeightClass(), "declared", why, seen, set())
    if not seen.on_grid:
        why = f"The request says {asked}; the weights are dense, and taken as latent ones of training in that class."
        return _of(WeightClass(asked, latent=True), "declared", why, seen, set(seen.sizes))
    for name, found in sorted(seen.grids.items()):
        if not _holds(asked, found.scheme):
            raise RequestError(
                f"The request says {asked}, but {name} of block 1 is {found.scheme}: "
                f"at most {found.values} distinct values per {_unit(found.scheme)}.",
                slug="weights-scheme-contradicted",
                remedy=f"Leave options.weights out, or say {found.scheme}; full solves without any restriction.",
                pointer="/options/weights",
            )
    if seen.packed and declared.scheme is not None and not _holds(asked, declared.scheme):
        raise RequestError(
            f"The request says {asked}, but the weights are stored as {declared.scheme} ({declared.detail}).",
            slug="weights-scheme-contradicted",
            remedy=f"Leave options.weights out, or say {declared.scheme}; full solves without any restriction.",
            pointer="/options/weights",
        )
    names = seen.on_grid
    why = f"The request says {asked}. {_share(names, seen)} of block 1: on such a grid."
    return _of(WeightClass(asked, False, _rest(seen, names)), "packed" if seen.packed else "seen", why, seen, names)


def _holds(asked: Scheme, found: Scheme) -> bool:
    """Whether weights found to be of one class may be called another: as many values, scales no rarer."""
    if _bits(asked) != _bits(found) or (asked.kind.startswith("binary") != found.kind.startswith("binary")):
        return False
    if asked.kind == "binary" and found.kind == "binary-fbi":
        return False
    if asked.group is None:
        fewest = asked.kind == "ternary"  # one scale for all
        return found.group is None and (not fewest or found.kind == "ternary")
    return found.group is None or found.group % asked.group == 0


def _bits(scheme: Scheme) -> float:
    return 1.0 if scheme.kind.startswith("binary") else 1.58 if scheme.kind.startswith("ternary") else scheme.bits or 0


def _most_common(seen: _Seen) -> Scheme:
    weight = Counter[Scheme]()
    for name, found in seen.grids.items():
        weight[found.scheme] += seen.sizes[name]
    return max(weight, key=lambda scheme: (weight[scheme], str(scheme)))


def _rest(seen: _Seen, names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(set(seen.sizes) - names))


def _share(names: set[str], seen: _Seen) -> str:
    if len(names) == len(seen.sizes):
        return f"Every one of {len(names)} linear maps"
    return f"{len(names)} of the {len(seen.sizes)} linear maps"


def _unit(scheme: Scheme) -> str:
    if scheme.group is not None:
        return f"group of {scheme.group} input channels"
    return "tensor" if scheme.kind == "ternary" else "output channel"
