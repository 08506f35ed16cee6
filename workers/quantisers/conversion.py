"""What a model in full precision must be for its linear maps to be rounded to a weight class (`what_if`)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from peelbound.workers.errors import RequestError, UnsupportedModel
from peelbound.workers.linear_maps import LinearMap
from peelbound.workers.quantisers.recognise import recognise
from peelbound.workers.quantisers.scheme import Scheme


def require_fitting(maps: Sequence[LinearMap], scheme: Scheme, index: int) -> None:
    """Refuse a class that block `index` cannot be rounded to, by the shapes of its linear maps alone.

    Raises:
        RequestError: the groups do not divide the input channels of a map (slug ``weights-group-indivisible``).
        UnsupportedModel: see `require_rounded_inputs`.
    """
    require_rounded_inputs(maps, scheme, "/what_if")
    for linear in maps:
        rows, columns = linear.shape[-2:]
        inputs = rows if linear.transposed else columns
        if scheme.group is not None and inputs % scheme.group:
            raise RequestError(
                f"Groups of {scheme.group} do not divide the {inputs} inputs of {linear.name} in block {index}.",
                slug="weights-group-indivisible",
                remedy="Take a group size that divides the input channels of every linear map of a block, or none.",
                pointer="/what_if",
            )


def require_rounded_inputs(maps: Sequence[LinearMap], scheme: Scheme, pointer: str) -> None:
    """Refuse 8-bit activations where what enters a linear map cannot be reached: in fused experts.

    Raises:
        UnsupportedModel: slug ``weights-activations-unsupported``.
    """
    fused = [linear.name for linear in maps if len(linear.shape) == 3]
    if scheme.activation_bits and fused:
        raise UnsupportedModel(
            f"{fused[0]} holds fused experts: what enters each of them is not rounded, so +a8 would not be true.",
            slug="weights-activations-unsupported",
            remedy=f"Say {scheme.weights} instead: weights alone.",
            pointer=pointer,
        )


def require_dense(maps: Sequence[LinearMap], tensors: Mapping[str, Tensor], scheme: str, index: int) -> None:
    """Refuse to round block `index` where one of its linear maps lies on a grid already.

    Raises:
        RequestError: slug ``request-what-if-low-bit``.
    """
    for linear in maps:
        found = recognise(linear.matrices(tensors[linear.name])[0])
        if found is not None:
            raise already_low_bit(f"{linear.name} of block {index} is {found.scheme} already", scheme)


def already_low_bit(what: str, scheme: str) -> RequestError:
    """The refusal of `what_if` for weights that are low-bit: rounded twice, they would say nothing of `scheme`."""
    return RequestError(
        f"what_if asks what {scheme} would cost, but {what}.",
        slug="request-what-if-low-bit",
        remedy="Name the checkpoint before quantisation, or leave what_if out; baseline compares one with the other.",
        pointer="/what_if",
    )
