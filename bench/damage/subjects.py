"""The models that are damaged: which are trained, from which start, by which optimiser; and who tunes, who reports."""

from dataclasses import dataclass
from pathlib import Path

from bench.stdlib_corpus import Corpus
from bench.stdlib_models import Family, ModelSize, Recipe, train_missing

SIZE = ModelSize(hidden=64, intermediate=176, blocks=6, heads=4)
TUNING, REPORT = "tuning", "report"


@dataclass(frozen=True)
class Trained:
    """A model to train; its recipe says which block was frozen from the start, if any."""

    role: str
    """`tuning`: thresholds were chosen on it, or a rule was changed when it had been seen. `report`: the tables are
    about it, and no threshold was chosen on it. Rules were made after the groups up to 420 had been measured, and
    after those from 440 to 460; those from 470 on were measured once, after all rules (docs/validity.md)."""
    recipe: Recipe

    @property
    def name(self) -> str:
        """Names its directory: family, seed, what was frozen, start and optimiser."""
        r = self.recipe
        what = "sound" if r.frozen_block is None else f"frozen-{r.frozen_block}"
        start = "identity" if r.near_identity else "ordinary"
        return f"{r.family.value}-{r.seed}-{what}-{start}-{'muon' if r.muon else 'adamw'}"


@dataclass(frozen=True)
class _Group:
    """Models of one family: a sound one, and some with a block that was left out of training."""

    role: str
    family: Family
    seed: int
    near_identity: bool
    frozen: tuple[tuple[int, bool], ...]
    """Block, and whether it started near the identity."""
    muon: bool = True
    lengthened: int = 1
    """So many times the steps: after as few as Muon takes, AdamW's blocks of this size hardly matter."""

    def models(self, steps: int) -> list[Trained]:
        """The sound model first."""
        made = []
        for number, (block, near) in enumerate(((None, self.near_identity), *self.frozen)):
            recipe = Recipe(
                size=SIZE,
                family=self.family,
                near_identity=near,
                frozen_block=block,
                muon=self.muon,
                steps=steps * self.lengthened,
                save_at=(steps * self.lengthened,),
                seed=self.seed + number,
            )
            made.append(Trained(self.role, recipe))
        return made


ORDINARY, NEAR_IDENTITY = False, True

_GROUPS = (
    _Group(TUNING, Family.LLAMA, 200, ORDINARY, ()),
    _Group(TUNING, Family.LLAMA, 300, NEAR_IDENTITY, ((4, ORDINARY), (5, NEAR_IDENTITY))),
    _Group(TUNING, Family.GPT2, 310, ORDINARY, ((5, ORDINARY),)),
    _Group(TUNING, Family.QWEN3, 320, NEAR_IDENTITY, ((2, ORDINARY),)),
    _Group(REPORT, Family.LLAMA, 400, ORDINARY, ((3, ORDINARY), (4, NEAR_IDENTITY))),
    _Group(REPORT, Family.GPT2, 410, NEAR_IDENTITY, ((2, ORDINARY),)),
    _Group(REPORT, Family.QWEN3, 420, ORDINARY, ((5, ORDINARY),)),
    _Group(REPORT, Family.LLAMA, 430, ORDINARY, ((4, ORDINARY),), muon=False, lengthened=4),
    _Group(REPORT, Family.LLAMA, 440, NEAR_IDENTITY, ((2, NEAR_IDENTITY), (5, ORDINARY))),
    _Group(REPORT, Family.GPT2, 450, ORDINARY, ((4, NEAR_IDENTITY),)),
    _Group(REPORT, Family.QWEN3, 460, NEAR_IDENTITY, ((3, NEAR_IDENTITY),)),
    _Group(REPORT, Family.LLAMA, 470, ORDINARY, ((5, ORDINARY), (2, NEAR_IDENTITY))),
    _Group(REPORT, Family.GPT2, 480, NEAR_IDENTITY, ((3, ORDINARY),)),
    _Group(REPORT, Family.QWEN3, 490, ORDINARY, ((4, NEAR_IDENTITY),)),
)
"""A frozen block's random output from the library's ordinary start is one that the other blocks learn to use."""


def trained(steps: int) -> list[Trained]:
    """All of them, group by group."""
    return [model for group in _GROUPS for model in group.models(steps)]


def checkpoint(model: Trained, out: Path) -> Path:
    """Where the model lies, whether it is trained already or not."""
    return out / "models" / model.name / f"step-{model.recipe.steps}"


def train_model(model: Trained, out: Path) -> None:
    """Train the model, unless it is trained already."""
    train_missing(Corpus.in_directory(out / "corpus"), {checkpoint(model, out).parent: model.recipe})
