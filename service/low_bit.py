"""What is said of a low-bit model: the price of its bits beside what training left undone. Pure."""

from collections.abc import Sequence

from peelbound.service.check_size import CheckSize
from peelbound.service.schemas.report import BlockBits, BoundBits, Interval, Sentence, WeightsReport
from peelbound.service.words import Phrase, compose, interval, nats, percent, plain, share, share_in_percent


def low_bit_sentences(
    bound: BoundBits | None,
    blocks: Sequence[BlockBits],
    codes_moved: Sequence[float],
    level: float,
    check: CheckSize,
) -> list[Sentence]:
    """The sentences of the low-bit section; paths are those of the report."""
    said = check.too_few() if bound is not None or blocks else []
    if bound is not None:
        said.append(_of_bound(bound, level) if check.tests else _untested(bound, level))
    if blocks:
        said += _of_blocks(blocks, level, check)
    if codes_moved:
        said.append(_of_codes(codes_moved))
    return [phrase.sentence() for phrase in said]


def _measured(path: str, value: Interval, level: float) -> tuple[Phrase, Phrase]:
    return nats(f"{path}/estimate", value.estimate), interval(path, value, percent("/settings/thresholds/level", level))


def _of_bound(bound: BoundBits, level: float) -> Phrase:
    path = "/low_bit/bound"
    if bound.unfinished.low <= 0:
        return _out_of_reach(bound, level)
    if bound.price.low <= 0:
        return _no_price(bound, level)
    names = (plain(f"{path}/network", bound.network), plain(f"{path}/free_network", bound.free_network))
    return compose(
        "The reference network in full precision, {}, gains {} nats {} over the trained network on check: {} nats "
        "{} of that are the price of the bits, and {} nats {} are what {}, the reference network of the model's "
        "own class, gains: unfinished training.",
        names[1],
        *_measured(f"{path}/total", bound.total, level),
        *_measured(f"{path}/price", bound.price, level),
        *_measured(f"{path}/unfinished", bound.unfinished, level),
        names[0],
    )


def _untested(bound: BoundBits, level: float) -> Phrase:
    """The two networks over the trained one, and no more."""
    path = "/low_bit/bound"
    return compose(
        "Over the trained network {}, the reference network in full precision, gains {} nats {} on check and {}, that "
        "of the model's own class, {} nats {}.",
        plain(f"{path}/free_network", bound.free_network),
        *_measured(f"{path}/total", bound.total, level),
        plain(f"{path}/network", bound.network),
        *_measured(f"{path}/unfinished", bound.unfinished, level),
    )


def _no_price(bound: BoundBits, level: float) -> Phrase:
    """Training is unfinished, and full precision is not shown to gain more than the class does."""
    path = "/low_bit/bound"
    return compose(
        "{}, the reference network of the model's own class, gains {} nats {} over the trained network on check: "
        "unfinished training. The bits are not shown to cost anything beside it: {}, the reference network in full "
        "precision, differs from it by {} nats {}.",
        plain(f"{path}/network", bound.network),
        *_measured(f"{path}/unfinished", bound.unfinished, level),
        plain(f"{path}/free_network", bound.free_network),
        *_measured(f"{path}/price", bound.price, level),
    )


def _out_of_reach(bound: BoundBits, level: float) -> Phrase:
    """No fresh network of the class is better than the trained one for sure: the bound is silent on training."""
    path = "/low_bit/bound"
    cost = "the bits cost {} nats {}" if bound.price.low > 0 else "the bits are not shown to cost anything: {} nats {}"
    return compose(
        "How much training left undone the bounds do not tell at this budget: {}, the reference network of the "
        "model's own class, is not shown to beat the trained one on check (it gains {} nats {}). Between fresh "
        f"networks of the class and in full precision, {{}}, {cost}.",
        plain(f"{path}/network", bound.network),
        *_measured(f"{path}/unfinished", bound.unfinished, level),
        plain(f"{path}/free_network", bound.free_network),
        *_measured(f"{path}/price", bound.price, level),
    )


def _of_codes(codes_moved: Sequence[float]) -> Phrase:
    """What solving within the class moved at all."""
    most = max(range(len(codes_moved)), key=lambda i: codes_moved[i])
    path = f"/low_bit/codes_moved/{most}"
    if codes_moved[most] == 0:
        return compose(
            "Solving blocks in their class moved no code at this budget, only norms and biases: what it gains says "
            "nothing of better codes.",
            because=[share(path, codes_moved[most])],
        )
    return compose(
        "Solving blocks in their class moved at most {}% of a block's codes.",
        share_in_percent(path, codes_moved[most]),
    )


def _of_blocks(blocks: Sequence[BlockBits], level: float, check: CheckSize) -> list[Phrase]:
    costly = [i for i, block in enumerate(blocks) if block.price.low > 0]
    most = max(range(len(blocks)), key=lambda i: blocks[i].price.estimate)
    path = f"/low_bit/blocks/{most}"
    dearest = compose(
        "Solved in full precision instead of its class, block {} has the largest estimate of what more it wins: {} "
        "nats {} on check.",
        plain(f"{path}/index", blocks[most].index),
        *_measured(f"{path}/price", blocks[most].price, level),
    )
    if costly or not check.tests:
        return [dearest]
    nothing = "In no block did leaving the class win anything that could be told from nothing."
    return [compose(nothing, because=[nats(f"{path}/price/low", blocks[most].price.low)])]


def low_bit_caveats(weights: WeightsReport | None, *, freed: bool) -> list[str]:
    """What the numbers on a low-bit model do not say; `freed`: whether there are references in full precision."""
    if weights is None or weights.scheme == "full":
        return []
    outside = "Full-precision references of a low-bit model are outside its weight class: no such network fits it."
    caveats = [outside] if freed else []
    if weights.certainty == "declared":
        caveats.append("The weight class is taken on the word of config or request: latent weights do not show it.")
    if weights.latent:
        caveats.append("What is audited are the rounded weights; the stored ones are where solvers start.")
    else:
        caveats.append("Scales are held as stored while a block is solved; only codes, norms and biases move.")
    return caveats
