"""The positive control: weight noise in one block, as much as makes a loss that a verdict should not miss."""

import math
from collections.abc import Collection, Mapping, Sequence

from peelbound.service.controller.block_measurements import Trained
from peelbound.service.plan import CONTROL_COST, CONTROL_SIGMAS, Plan
from peelbound.workers.keys import seed_of
from peelbound.workers.tasks import Damage, Reference

_NOTHING = 1e-6
"""Nats: a level that costs less, or nothing, counts as this much, so that it has a logarithm."""


def typical_block(trained: Trained, accused: Collection[int] = ()) -> int:
    """The block (1..K) whose influence on select is the median, of those that are not accused where there are any.

    Damage in a block that is accused already would name nobody new, and so could not be seen.
    """
    ranked = sorted(range(1, len(trained.select_influence) + 1), key=lambda block: trained.select_influence[block - 1])
    median = ranked[(len(ranked) - 1) // 2]
    innocent = [block for block in ranked if block not in accused]
    return median if median in innocent or not innocent else innocent[(len(innocent) - 1) // 2]


def noise_levels(block: int, plan: Plan) -> list[Reference]:
    """References with more and more weight noise in a block.

    The noise has the same direction at every level (`peelbound.workers.damage`), so its cost grows smoothly.
    """
    seed = seed_of(plan.seed, "damage")
    return [Reference(f"noise {sigma:g}", block, block, damage=Damage(block, sigma, seed)) for sigma in CONTROL_SIGMAS]


def planted(levels: Sequence[Reference], costs: Mapping[str, float]) -> Damage:
    """The damage that should cost `CONTROL_COST`, between the two levels whose costs lie around it.

    Args:
        levels: at least one.
        costs: of each level by name, on select, in nats.
    """
    damages = [level.damage for level in levels if level.damage is not None]
    sigma = sigma_of_cost({damage.sigma: costs[level.name] for damage, level in zip(damages, levels, strict=True)})
    return Damage(damages[0].block, sigma, damages[0].seed)


def sigma_of_cost(costs: Mapping[float, float], wanted: float = CONTROL_COST) -> float:
    """The noise that costs `wanted`, to three digits: a power of the noise between two levels.

    Exactly so where the loss is quadratic in it, as around a minimum. Where no level costs so much it is the strongest,
    where all cost more the weakest: further out nothing was measured.

    Args:
        costs: nats by level.
        wanted: nats.
    """
    levels = sorted(costs)
    above = next((at for at, sigma in enumerate(levels) if costs[sigma] >= wanted), None)
    if above is None:
        return levels[-1]
    if above == 0:
        return levels[0]
    low, high = levels[above - 1], levels[above]
    cheap, dear = (math.log(max(costs[sigma], _NOTHING)) for sigma in (low, high))
    share = (math.log(wanted) - cheap) / (dear - cheap)
    return float(f"{low * (high / low) ** share:.3g}")
