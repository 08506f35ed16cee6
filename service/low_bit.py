"""What is said of a low-bit model: the price of its bits beside what training left undone. Pure."""

from collections.abc import Sequence

from peelbound.service.schemas.report import BlockBits, BoundBits, Interval, Sentence, WeightsReport
from peelbound.service.words import Phrase, compose, interval, nats, percent, plain


def low_bit_sentences(bound: BoundBits | None, blocks: Sequence[BlockBits], level: float) -> list[Sentence]:
    """The sentences of the low-bit section; paths are those of the report."""
    said = []
    if bound is not None:
        said += _of_bound(bound, level)
    if blocks:
        said += _of_blocks(blocks, level)
    return [phrase.sentence() for phrase in said]


def _measured(path: str, value: Interval, level: float) -> tuple[Phrase, Phrase]:
    return nats(f"{path}/estimate", value.estimate), interval(path, value, percent("/settings/thresholds/level", level))


def _of_bound(bound: BoundBits, level: float) -> list[Phrase]:
    path = "/low_bit/bound"
    names = (plain(f"{path}/network", bound.network), plain(f"{path}/free_network", bound.free_network))
    said = [
        compose(
            "The reference network in full precision, {}, gains {} nats {} over the trained network on check: {} nats "
            "{} of that are the price of the bits, and {} nats {} are what {}, the reference network of the model's "
            "own class, gains: unfinished training.",
            names[1],
            *_measured(f"{path}/total", bound.total, level),
            *_measured(f"{path}/price", bound.price, level),
            *_measured(f"{path}/unfinished", bound.unfinished, level),
            names[0],
        )
    ]
    if bound.unfinished.high < 0:
        said.append(
            compose(
                "The network of the model's own class does not reach the trained one: at this budget the bound does "
                "not tell how much training left undone, and the price is that of fresh blocks.",
                because=[nats(f"{path}/unfinished/high", bound.unfinished.high)],
            )
        )
    return said


def _of_blocks(blocks: Sequence[BlockBits], level: float) -> list[Phrase]:
    costly = [i for i, block in enumerate(blocks) if block.price.low > 0]
    most = max(range(len(blocks)), key=lambda i: blocks[i].price.estimate)
    path = f"/low_bit/blocks/{most}"
    dearest = compose(
        "Solved in full precision instead of its class, block {} wins the most more: {} nats {} on check.",
        plain(f"{path}/index", blocks[most].index),
        *_measured(f"{path}/price", blocks[most].price, level),
    )
    if costly:
        return [dearest]
    nothing = "In no block did leaving the class win anything that could be told from nothing."
    return [compose(nothing, because=[nats(f"{path}/price/low", blocks[most].price.low)])]


def low_bit_caveats(weights: WeightsReport | None) -> list[str]:
    """What the numbers on a low-bit model do not say."""
    if weights is None or weights.scheme == "full":
        return []
    caveats = ["Full-precision references of a low-bit model are outside its weight class: no such network fits it."]
    if weights.certainty == "declared":
        caveats.append("The weight class is taken on the word of config or request: latent weights do not show it.")
    if weights.latent:
        caveats.append("What is audited are the rounded weights; the stored ones are where solvers start.")
    else:
        caveats.append("Scales are held as stored while a block is solved; only codes, norms and biases move.")
    return caveats
