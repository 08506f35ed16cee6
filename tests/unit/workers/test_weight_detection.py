import pytest
import torch
from torch import Tensor

from peelbound.workers.checkpoint.encoding import PLAIN_ENCODING, Encoding
from peelbound.workers.errors import CheckpointError, RequestError
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.grid import HeldGrid
from peelbound.workers.quantisers.quantise import coded
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.weight_detection import Finding, detect

NAMES = ("attention.q.weight", "mlp.up.weight", "mlp.down.weight")
MAPS = [LinearMap(name, (48, 64)) for name in NAMES]
ONLINE = Encoding("bitnet", Scheme("ternary", activation_bits=8), False, "Latent weights.")
PACKED = Encoding("gptq", Scheme("int", 4, 32), True, "gptq: 4 bits, groups of 32, symmetric.")


def dense() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: 0.05 * torch.randn(48, 64, generator=draw) for name in NAMES} | {"norm.weight": torch.ones(64)}


def lying_on(scheme: str, names: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    tensors = dense()
    return tensors | {name: coded(tensors[name], Scheme.parse(scheme)).weight for name in names}


def found(
    tensors: dict[str, Tensor],
    asked: str | None = None,
    declared: Encoding = PLAIN_ENCODING,
    grids: dict[str, HeldGrid] | None = None,
) -> Finding:
    return detect(MAPS, tensors, grids or {}, declared, None if asked is None else Scheme.parse(asked))


def test_dense_weights_without_a_declaration_are_in_full_precision() -> None:
    finding = found(dense())
    assert finding.weights.scheme.full
    assert finding.certainty == "none"
    assert "None of the 3 linear maps" in finding.why


def test_ternary_weights_are_seen_with_the_number_of_their_values() -> None:
    finding = found(lying_on("ternary"))
    assert str(finding.weights.scheme) == "ternary"
    assert not finding.weights.latent
    assert finding.certainty == "seen"
    assert "Every one of 3 linear maps of block 1: at most 3 distinct values per tensor." in finding.why
    assert finding.parameters == 3 * 48 * 64


def test_maps_that_are_dense_beside_low_bit_ones_are_named() -> None:
    finding = found(lying_on("int4", NAMES[1:]))
    assert str(finding.weights.scheme) == "int4"
    assert finding.weights.full_maps == NAMES[:1]
    assert "2 of the 3 linear maps" in finding.why


def test_dense_weights_that_the_config_calls_bitnet_are_latent() -> None:
    finding = found(dense(), declared=ONLINE)
    assert finding.weights.latent
    assert str(finding.weights.scheme) == "ternary+a8"
    assert finding.certainty == "declared"


def test_ternary_weights_that_the_config_calls_bitnet_round_activations_and_are_not_latent() -> None:
    finding = found(lying_on("ternary"), declared=ONLINE)
    assert not finding.weights.latent
    assert str(finding.weights.scheme) == "ternary+a8"


def test_dense_weights_that_the_request_calls_ternary_are_latent() -> None:
    finding = found(dense(), asked="ternary")
    assert finding.weights.latent
    assert finding.certainty == "declared"


def test_full_precision_can_be_forced_on_low_bit_weights() -> None:
    assert found(lying_on("ternary"), asked="full").weights.scheme.full


def test_packed_weights_are_what_the_format_says() -> None:
    tensors = lying_on("int4-g32")
    grids = {name: coded(tensors[name], Scheme.parse("int4-g32")).grid for name in NAMES}
    finding = found(tensors, declared=PACKED, grids=grids)
    assert str(finding.weights.scheme) == "int4-g32"
    assert finding.certainty == "packed"
    assert "codes of at most 16 values" in finding.why


@pytest.mark.parametrize(
    ("lies_on", "asked"),
    [
        ("ternary", "ternary-twn"),
        ("ternary", "ternary-g32"),
        ("ternary", "ternary+a8"),
        ("binary", "binary-fbi"),
        ("int4", "q4_0"),
        ("int4-g32", "q4_1"),
    ],
)
def test_a_request_may_name_a_class_that_the_weights_are_of_too(lies_on: str, asked: str) -> None:
    finding = found(lying_on(lies_on), asked=asked)
    assert str(finding.weights.scheme) == asked
    assert not finding.weights.latent


@pytest.mark.parametrize(
    ("lies_on", "asked"),
    [
        ("ternary", "binary"),
        ("binary", "ternary"),
        ("ternary-twn", "ternary"),
        ("int4-g32", "int4"),
        ("int4", "int8"),
        ("binary-fbi", "binary"),
        ("int4-g32", "int4-g64"),
    ],
)
def test_a_request_that_the_weights_contradict_is_refused_with_what_they_are(lies_on: str, asked: str) -> None:
    with pytest.raises(RequestError) as caught:
        found(lying_on(lies_on), asked=asked)
    assert caught.value.slug == "weights-scheme-contradicted"
    assert lies_on in caught.value.detail
    assert asked in caught.value.detail
    assert caught.value.pointer == "/options/weights"


def test_a_request_that_packed_weights_contradict_is_refused() -> None:
    tensors = lying_on("int4-g32")
    grids = {name: coded(tensors[name], Scheme.parse("int4-g32")).grid for name in NAMES}
    with pytest.raises(RequestError) as caught:
        found(tensors, asked="ternary", declared=PACKED, grids=grids)
    assert caught.value.slug == "weights-scheme-contradicted"


def test_a_group_that_does_not_divide_the_maps_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        found(dense(), asked="int4-g48")
    assert caught.value.slug == "weights-group-indivisible"


def test_packed_scales_that_are_not_finite_are_refused_by_name() -> None:
    tensors = lying_on("int4")
    scale = torch.full((48, 1, 1), float("nan"))
    with pytest.raises(CheckpointError) as caught:
        found(tensors, declared=PACKED, grids={NAMES[1]: HeldGrid(scale, None, -8, 7)})
    assert caught.value.slug == "weights-scales-not-finite"
    assert NAMES[1] in caught.value.detail


def test_a_finding_survives_being_kept() -> None:
    finding = found(lying_on("int4-g32", NAMES[1:]))
    assert Finding.from_json(finding.as_json()) == finding
