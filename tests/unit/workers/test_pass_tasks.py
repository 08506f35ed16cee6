"""The tasks that pass: what stands in a block's place, and what is rounded there."""

import numpy as np
import pytest

from peelbound.workers.blame import blame_of
from peelbound.workers.errors import CheckpointError
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.quantisers.weight_class import WeightClass
from peelbound.workers.tasks import Damage, Reference, TrainedBlock
from tests.unit.workers.harness import Acting


@pytest.mark.parametrize("text", ["int3", "int3+a8", "ternary-g16"])
def test_a_block_that_a_reference_rounds_is_the_librarys_own_with_its_maps_rounded(acting: Acting, text: str) -> None:
    acting.prepare()
    mix = Reference("mix", 2, 2, rounded_to=text, rounds=(2, 3))
    trained, rounded, again = acting.advance(2, None, mix, mix)
    scheme = Scheme.parse(text)
    np.testing.assert_array_equal(trained, acting.by_hand(2, None, activations=False))
    np.testing.assert_array_equal(rounded, acting.by_hand(2, scheme, activations=bool(scheme.activation_bits)))
    np.testing.assert_array_equal(again, rounded)
    assert not np.array_equal(rounded, trained)


def test_rounded_activations_are_part_of_the_trained_network_and_not_of_what_leaves_its_class(acting: Acting) -> None:
    acting.prepare(WeightClass(Scheme.parse("int8+a8"), latent=True))
    scheme = Scheme.parse("int8")
    free = Reference("baseline", 2, 2, baseline="digest", free=True)
    trained, original = acting.advance(2, None, free, baseline=acting.part(2))
    np.testing.assert_array_equal(trained, acting.by_hand(2, scheme, activations=True))
    np.testing.assert_array_equal(original, acting.by_hand(2, None, activations=False))


def test_products_of_rounding_are_those_of_the_rounded_output(acting: Acting) -> None:
    acting.prepare()
    subject = acting.subject
    arrays = subject.h(1), subject.h(2), subject.g(2)
    done = acting.worker.rounding_products(2, acting.part(2), "int3", *arrays)
    delta = acting.by_hand(2, Scheme.parse("int3"), activations=False) - subject.h(2)
    np.testing.assert_allclose(done.values["products"], (delta * subject.g(2)).sum(-1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("reference", "slug", "says", "pointer"),
    [
        (Reference("solved", 2, 2, solution="key"), "solver-diverged", "its solver diverged", "/options"),
        (Reference("skip", 2, 2), "reference-not-finite", "without block 2, though not", "/checkpoint"),
        (
            Reference("noise", 2, 2, damage=Damage(2, 1.0, 0)),
            "reference-not-finite",
            "weight noise",
            "/options/positive_control",
        ),
        (
            Reference("mix", 2, 3, rounded_to="int2", rounds=(2, 3)),
            "reference-not-finite",
            "rounded to int2",
            "/what_if",
        ),
        (
            Reference("theirs", 2, 2, baseline="digest", free=True),
            "reference-not-finite",
            "the baseline's block 2",
            "/baseline",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Reference) else "",
)
def test_what_is_not_finite_is_blamed_on_whoever_made_it(
    reference: Reference, slug: str, says: str, pointer: str
) -> None:
    error = blame_of(reference).error("The output of block 2", 2)
    assert (error.slug, error.pointer, error.extra["block"]) == (slug, pointer, 2)
    assert says in error.detail


def test_noise_that_overflows_is_not_the_solvers_fault(acting: Acting) -> None:
    acting.prepare()
    with pytest.raises(CheckpointError) as caught:
        acting.advance(2, None, Reference("noise", 2, 2, damage=Damage(2, 1e38, 0)))
    assert caught.value.slug == "reference-not-finite"


def test_what_a_reference_brings_to_a_trained_block_is_its_own(acting: Acting) -> None:
    acting.prepare()
    h = acting.subject.h(1)
    with pytest.raises(CheckpointError) as caught:
        list(acting.worker.advance(TrainedBlock(2), acting.part(2), None, [None, None], h, np.full_like(h, np.inf)))
    assert caught.value.slug == "reference-not-finite"
    assert "an earlier block was solved anew, left out" in caught.value.detail


@pytest.mark.parametrize(
    ("damage", "slug"), [(None, "checkpoint-not-finite"), (Damage(2, 1.0, 0), "reference-not-finite")]
)
def test_a_loss_that_is_not_finite_is_blamed_on_the_noise_where_the_copy_with_it_is_walked(
    acting: Acting, damage: Damage | None, slug: str
) -> None:
    acting.prepare()
    subject = acting.subject
    h = np.full_like(subject.h(subject.blocks), np.inf)
    with pytest.raises(CheckpointError) as with_gradient:
        acting.worker.loss_gradient(h, subject.ids, subject.mask, damage)
    with pytest.raises(CheckpointError) as alone:
        acting.worker.losses(subject.ids, subject.mask, None, ["trained"], damage, h)
    assert (with_gradient.value.slug, alone.value.slug) == (slug, slug)
