"""A deep, narrow network with few anchors: which YES-1 is best, and does it pay to aim most blocks at the output?"""

from dataclasses import asdict, dataclass
from pathlib import Path

from bench.local import save
from bench.papers.peeling import Peeling, Reference, Sizes
from bench.papers.picture import Curve, Panel, Role, draw
from bench.papers.runs import Experiment, peel
from bench.papers.text import Text
from bench.stdlib_models import Family, ModelSize, train
from peelbound.service.plan import Anchors

DEEP = Experiment(
    "deep",
    Family.LLAMA,
    size=ModelSize(hidden=64, intermediate=176, blocks=24, heads=4),
    peeled_at=(300,),
    sizes=Sizes(fit=48, select=16, check=48, head_steps=20),
    network_steps=160,
)


@dataclass(frozen=True)
class Few:
    """YES-0, maps with one anchor below K, and the map with all.

    Anchors lie at powers of two from either end: each map takes as long as a whole network.
    """

    blocks: int

    @property
    def maps(self) -> tuple[Anchors, ...]:
        """YES-0, YES-1 {1}, {2}, {4} … {K−4}, {K−2}, {K−1}, direct."""
        K = self.blocks
        powers = [2**i for i in range(K.bit_length()) if 2**i < K]
        anchors = sorted({*powers, *(K - p for p in powers)})
        return ((K,), *((a, K) for a in anchors), tuple(range(1, K + 1)))


def main(experiment: Experiment, text: Text, work: Path, out: Path) -> Peeling:
    """Train at the right rate, peel the last checkpoint, save figures, table and picture."""
    last = [s for s in train(text.corpus, experiment.recipe("right"), work / experiment.name) if s.checkpoint][-1]
    assert last.checkpoint is not None
    found = peel(experiment, last.checkpoint, text, Few(experiment.size.blocks).maps)
    save(out / f"{experiment.name}.json", {"training_loss": last.training_loss, "peeling": asdict(found)})
    (out / f"{experiment.name}.md").write_text(table(found), encoding="utf-8")
    (out / f"{experiment.name}.svg").write_text(picture(found), encoding="utf-8")
    print(table(found))
    return found


def table(found: Peeling) -> str:
    """Every map, best in-sample first, as Markdown."""
    lines = [
        "| map | blocks aimed at the output | fit | fit, head refitted | check | check, better head |",
        "|---|---|---|---|---|---|",
    ]
    for ref in sorted(found.references, key=lambda r: r.losses.fit_refitted):
        aimed = 1 if len(ref.anchors) == ref.anchors[-1] else ref.anchors[-1] - (*ref.anchors[:-1], 0)[0]
        x = ref.losses
        lines.append(f"| {ref.name} | {aimed} | {x.fit:.3f} | {x.fit_refitted:.3f} | {x.check:.3f} | {x.chosen:.3f} |")
    c = found.control
    lines.append(f"| trained; refitted: head control | | {c.fit:.3f} | {c.fit_refitted:.3f} | {c.check:.3f} "
                 f"| {c.chosen:.3f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def picture(found: Peeling) -> str:
    """Loss of YES-1 {a} over the anchor a; a = 0 is YES-0."""
    last = found.references[0].anchors[-1]
    few = sorted((r for r in found.references if len(r.anchors) <= 2), key=_anchor)
    direct = next(r for r in found.references if len(r.anchors) == last)
    panels = []
    for title, split in (("training text, head refitted", "fit_refitted"), ("unseen text, better head", "chosen")):
        trained = found.control.fit if split == "fit_refitted" else found.control.check

        def level(value: float) -> list[tuple[float, float]]:
            return [(0.0, value), (float(last - 1), value)]

        panels.append(
            Panel(
                title,
                [
                    Curve("YES-1 {a}", Role.BOUND, [(_anchor(r), getattr(r.losses, split)) for r in few], dots=True),
                    Curve("direct", Role.START, level(getattr(direct.losses, split))),
                    Curve("head control", Role.CONTROL, level(getattr(found.control, split))),
                    Curve("trained network", Role.CHECKPOINT, level(trained)),
                ],
            )
        )
    return draw(
        f"One anchor in a network of {last} blocks",
        [panels],
        x_title="anchor a (0: YES-0)",
        y_title="cross-entropy, nats per token",
        headroom=0.12,
    )


def _anchor(reference: Reference) -> int:
    anchors = reference.anchors
    return anchors[0] if len(anchors) == 2 else 0
