"""The plan: what an audit of a model with K blocks will do, resolved from its request. Pure.

The plan fixes everything that a result depends on before anything runs: solver settings, target maps, the trie of peel
problems that the maps share, and what is measured where.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from peelbound.service.schemas.request import AuditOptions, AuditRequest, Preset, SolverName
from peelbound.workers.errors import RequestError
from peelbound.workers.quantisers.scheme import FULL, Scheme
from peelbound.workers.recipes import FLOAT32, Arithmetic, CorrectedSettings, HeadSettings, StateSettings

Anchors = tuple[int, ...]
T = TypeVar("T")

EXHAUSTIVE_BLOCKS = 6
"""More blocks than this have more than 32 maps: `exhaustive` refuses."""
CONTROL_COST = 0.05
"""Nats that the planted damage of the positive control should cost on select."""
CONTROL_SIGMAS = (0.1, 0.18, 0.3, 0.5, 0.85, 1.4, 2.4, 4.0)
"""Noise levels whose costs are measured; between them lies the one that costs `CONTROL_COST`, which is planted."""


@dataclass(frozen=True)
class Plan:
    """What will be done. Blocks are numbered 1..K."""

    preset: str
    blocks: int
    corrected: tuple[CorrectedSettings, ...]
    """One per candidate ρ, smallest first."""
    state: StateSettings
    head: HeadSettings
    maps: tuple[Anchors, ...]
    """Target maps known beforehand; none for `quick`."""
    suggested_maps: int
    """Further maps, suggested by the peeling matrix."""
    band: int
    """Width of the peeling matrix's band; 0: none."""
    positive_control: bool
    grain: int
    tolerance: float
    seed: int
    arithmetic: Arithmetic = FLOAT32
    """Of the blocks, in every walk and solve."""
    weights: str = "full"
    """The weight class that blocks are solved in."""
    free_corrected: CorrectedSettings | None = None
    """Beside a low-bit model: how each block is solved once more in full precision."""
    free_maps: tuple[Anchors, ...] = ()
    """Beside a low-bit model: target maps that are solved in full precision too."""
    what_if: CorrectedSettings | None = None
    """How each block, rounded to the class that the request asks about, is re-solved in it."""
    baseline: bool = False
    """Whether the checkpoint before quantisation is walked too, and its blocks are put in on check."""

    @property
    def free(self) -> "Plan":
        """The reference networks in full precision beside those of a low-bit model, as a plan of their own."""
        return replace(
            self, state=replace(self.state, free=True), maps=self.free_maps, suggested_maps=0, band=0, free_maps=()
        )

    @property
    def middles(self) -> bool:
        """Whether trained states inside blocks are needed: every network has a block with its own state as target."""
        return self.state.halves and bool(self.maps or self.band)

    @property
    def control_steps(self) -> tuple[CorrectedSettings, ...]:
        """Candidates for the damaged copy: the longest step alone, since its way back is long."""
        return self.corrected[-1:]

    @property
    def walks(self) -> tuple[str, ...]:
        """The passes over the checkpoint's blocks, in order, when nothing is found in object storage."""
        once = ("trained states", "gradients and block references", "select", "check")
        return (
            ("baseline",) * self.baseline + once + tuple(f"positive control: {w}" for w in once) * self.positive_control
        )

    @property
    def problem_counts(self) -> dict[str, int]:
        """Peel problems by kind; suggested maps are counted as if they shared no prefix."""
        networks = len(trie(self.maps)) + self.suggested_maps * self.blocks
        counts = {
            "block_reference": self.blocks * len(self.corrected),
            "full_precision_block": self.blocks * (self.free_corrected is not None),
            "what_if": self.blocks * (self.what_if is not None),
            "matrix": len(self.matrix_cells),
            "reference_network": networks,
            "full_precision_network": len(trie(self.free_maps)),
            "head": 1 + len(self.maps) + self.suggested_maps + len(self.free_maps),
            "positive_control": self.blocks * self.positive_control,
        }
        return {kind: n for kind, n in counts.items() if n}

    @property
    def matrix_cells(self) -> tuple[tuple[int, int], ...]:
        """(source, target) of the peeling matrix's band: block source+1 fitted from h[source] to h[target]."""
        return tuple(
            (source, target)
            for source in range(self.blocks)
            for target in range(source + 1, min(source + self.band, self.blocks) + 1)
        )


@dataclass(frozen=True)
class Node:
    """A peel problem of the trie: block `len(path)` fitted to h[path[-1]] on the output of the node `path[:-1]`."""

    path: tuple[int, ...]

    @property
    def block(self) -> int:
        """The block that is solved."""
        return len(self.path)

    @property
    def target(self) -> int:
        """The trained state that it is fitted to."""
        return self.path[-1]

    @property
    def parent(self) -> tuple[int, ...]:
        """The path of the network before it; empty: the embedding."""
        return self.path[:-1]


def target_map(anchors: Sequence[int]) -> tuple[int, ...]:
    """m(k) = min{a ∈ A : a ≥ k} for k = 1..K, where K is the last anchor."""
    return tuple(min(a for a in anchors if a >= k) for k in range(1, anchors[-1] + 1))


def map_name(anchors: Sequence[int]) -> str:
    """`YES-0`, `direct`, or `YES-d {anchors below K}`; a single block's only map is called `YES-0`."""
    if len(anchors) == 1:
        return "YES-0"
    if len(anchors) == anchors[-1]:
        return "direct"
    return f"YES-{len(anchors) - 1} {{{','.join(map(str, anchors[:-1]))}}}"


def trie(maps: Sequence[Anchors]) -> list[Node]:
    """The peel problems of all maps, each once, parents before children."""
    paths = {m[:depth] for m in map(target_map, maps) for depth in range(1, len(m) + 1)}
    return [Node(path) for path in sorted(paths, key=lambda p: (len(p), p))]


def all_maps(blocks: int) -> tuple[Anchors, ...]:
    """Every target map of K blocks, 2^(K−1) of them, by degree."""
    below = range(1, blocks)
    chosen = [tuple(b for i, b in enumerate(below) if bits >> i & 1) for bits in range(1 << (blocks - 1))]
    return tuple((*c, blocks) for c in sorted(chosen, key=lambda c: (len(c), c)))


def suggest(cost: dict[tuple[int, int], float], blocks: int, band: int) -> Anchors:
    """Anchors that the peeling matrix suggests: the fewest segments its band allows, and of those the cheapest.

    A segment (s, t) is a stretch of blocks that share the target h[t]; the matrix says what it costs to jump there from
    h[s] at once. Shortest path over boundaries 0..K by (number of segments, sum of costs).

    Args:
        cost: loss increase in nats by (source, target).
        blocks: K.
        band: widest segment.
    """
    best: dict[int, tuple[int, float, Anchors]] = {0: (0, 0.0, ())}
    for target in range(1, blocks + 1):
        best[target] = min(
            (count + 1, total + cost[source, target], (*anchors, target))
            for source in range(max(0, target - band), target)
            for count, total, anchors in [best[source]]
        )
    return best[blocks][2]


def mix_sizes(blocks: int) -> tuple[int, ...]:
    """How many blocks stay in full precision in the mixes of `what_if`: 0 to 4, then ever wider apart, below K."""
    sizes = [0, 1, 2, 3, 4]
    while sizes[-1] < blocks:
        sizes += [sizes[-1] * 3 // 2, sizes[-1] * 2]
    return tuple(size for size in sizes if size < blocks)


def make_plan(request: AuditRequest, blocks: int, hidden_size: int, weights: Scheme = FULL) -> Plan:
    """Resolve preset and options for a model.

    Args:
        request: what the user asked for.
        blocks: K.
        hidden_size: D; sets the default learning rates.
        weights: the weight class that its blocks are of.

    Raises:
        RequestError: anchors out of range, repeated or without K (slug ``request-anchors``), or `exhaustive` for a
            model with too many blocks (``request-exhaustive``).
    """
    options, networks = request.options, request.preset is not Preset.QUICK
    if request.preset is Preset.EXHAUSTIVE and blocks > EXHAUSTIVE_BLOCKS and options.maps is None:
        raise RequestError(
            f"The model has {blocks} blocks and so 2^{blocks - 1} target maps; exhaustive tries them all only up to "
            f"{EXHAUSTIVE_BLOCKS} blocks.",
            slug="request-exhaustive",
            remedy="Take preset standard, or name the maps in options.maps.",
            pointer="/preset",
        )
    band = _given(options.matrix_band, 2 if networks else 0)
    maps, suggested = _maps(request.preset, options, blocks, band)
    # Adam's step that suits a width falls as 1/width (Yang et al. 2022, arXiv 2203.03466); 1e-3 was measured at 128.
    block_rate = _given(options.block_learning_rate, min(1e-3, 0.128 / hidden_size))
    corrected = tuple(
        CorrectedSettings(
            rho=rho,
            steps=_given(options.block_steps, 12),
            learning_rate=block_rate,
            gradient_clip=5.0,
            outlier=10.0,
        )
        for rho in sorted(set(options.rhos or (0.15, 0.5)))
    )
    low_bit = not weights.full
    ends = ((blocks,), tuple(range(1, blocks + 1)))  # YES-0 and direct
    return Plan(
        preset=request.preset.value,
        blocks=blocks,
        corrected=corrected,
        state=_state_settings(options, hidden_size),
        head=HeadSettings(
            steps=_given(options.head_steps, 40),
            learning_rate=1e-3,
            batch=16,
            evaluations=4,
        ),
        maps=maps,
        suggested_maps=suggested,
        band=band,
        positive_control=_given(options.positive_control, networks),
        grain=options.grain,
        tolerance=options.tolerance,
        seed=request.seed,
        arithmetic=Arithmetic(options.precision.value, options.compile),
        weights=str(weights),
        free_corrected=replace(corrected[-1], free=True) if low_bit and networks else None,
        baseline=request.baseline is not None,
        what_if=None if request.what_if is None else replace(corrected[-1], rounded_to=request.what_if),
        free_maps=(tuple(m for m in maps if m in ends) or maps[:1]) if low_bit else (),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _state_settings(options: AuditOptions, hidden_size: int) -> StateSettings:
    if options.network_solver is SolverName.BASELINE:
        return StateSettings(
            steps=_given(options.network_steps, 400),
            learning_rate=_given(options.network_learning_rate, 5e-3),
            batch=8,
            schedule="cosine",
            halves=False,
        )
    # Chosen in docs/solver.md at a width of 128; for other widths see make_plan.
    return StateSettings(
        steps=_given(options.network_steps, 560),
        learning_rate=_given(options.network_learning_rate, min(1e-2, 0.512 / hidden_size)),
        batch=1,
        schedule="linear",
        halves=True,
    )


def _maps(preset: Preset, options: AuditOptions, blocks: int, band: int) -> tuple[tuple[Anchors, ...], int]:
    if options.maps is not None:
        return tuple(dict.fromkeys(_anchors(m, blocks, i) for i, m in enumerate(options.maps))), 0
    if preset is Preset.QUICK:
        return (), 0
    if preset is Preset.EXHAUSTIVE:
        return all_maps(blocks), 0
    half = (blocks // 2, blocks) if blocks > 1 else (blocks,)
    maps = dict.fromkeys([(blocks,), half, tuple(range(1, blocks + 1))])
    return tuple(maps), 1 if band > 1 and blocks > 2 else 0


def _anchors(anchors: Sequence[int], blocks: int, position: int) -> Anchors:
    found = tuple(sorted(anchors))
    if len(set(found)) != len(found) or found[0] < 1 or found[-1] != blocks:
        raise RequestError(
            f"The anchors {list(anchors)} do not make a target map of {blocks} blocks.",
            slug="request-anchors",
            remedy=f"Anchors lie in 1..{blocks}, none twice, and {blocks} is always one of them.",
            pointer=f"/options/maps/{position}",
        )
    return found
