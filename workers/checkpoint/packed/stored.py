"""The stored tensors of a packed checkpoint, taken module by module and checked for their shapes."""

from collections.abc import Mapping

from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.errors import CheckpointError

FLOATS = ("F32", "F16", "BF16")


class Stored:
    """Stored tensors by name, from which packed modules are taken; what is left are plain weights."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self.left = dict(tensors)

    def modules(self, marker: str) -> list[str]:
        """Names of the modules that have a tensor `marker`, such as `qweight`."""
        suffix = f".{marker}"
        return [name.removesuffix(suffix) for name in self.left if name.endswith(suffix)]

    def has(self, module: str, name: str) -> bool:
        """Whether the module has this tensor."""
        return f"{module}.{name}" in self.left

    def dtype(self, module: str, name: str) -> str | None:
        """What the tensor is stored as; None where it is not there."""
        tensor = self.left.get(f"{module}.{name}")
        return tensor.dtype if tensor else None

    def take(self, module: str, name: str, *dtypes: str) -> StoredTensor:
        """Take a tensor that must be there, of one of these dtypes.

        Raises:
            CheckpointError: ``checkpoint-packed-incomplete`` or ``checkpoint-dtype-unsupported``.
        """
        tensor = self.left.pop(f"{module}.{name}", None)
        if tensor is None:
            raise CheckpointError(
                f"The packed weight of {module} lacks its {name}.",
                slug="checkpoint-packed-incomplete",
                remedy="Save the quantised model again, with the quantization_config that its weights were packed by.",
                pointer="/checkpoint",
            )
        if tensor.dtype not in dtypes:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}; {' or '.join(dtypes)} is needed.",
                slug="checkpoint-dtype-unsupported",
                remedy="Check that quantization_config names the method that the weights were packed by.",
                pointer="/checkpoint",
            )
        return tensor

    def drop(self, module: str, *names: str) -> None:
        """Leave tensors unread that no weight depends on: scales of activations that were calibrated once."""
        for name in names:
            self.left.pop(f"{module}.{name}", None)


def expect(tensor: StoredTensor, *shapes: tuple[int, ...]) -> StoredTensor:
    """The tensor, if it has one of these shapes.

    Raises:
        CheckpointError: ``checkpoint-packed-shape``.
    """
    if tensor.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise CheckpointError(
            f"{tensor.file}: {tensor.name} has shape {list(tensor.shape)}; the packing calls for {wanted}.",
            slug="checkpoint-packed-shape",
            remedy="Check bits and group size in quantization_config against the tool that packed the weights.",
            pointer="/checkpoint",
        )
    return tensor


def matrix(tensor: StoredTensor) -> StoredTensor:
    """The tensor, if it has two dimensions, neither of them empty.

    Raises:
        CheckpointError: ``checkpoint-packed-shape``.
    """
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise CheckpointError(
            f"{tensor.file}: {tensor.name} has shape {list(tensor.shape)}; a matrix is needed.",
            slug="checkpoint-packed-shape",
            remedy="Only weights of linear maps can be packed; save the others in full precision.",
            pointer="/checkpoint",
        )
    return tensor


def groups_of(module: str, inputs: int, group: int | None) -> int:
    """How many groups the input channels make; None: one.

    Raises:
        CheckpointError: ``checkpoint-group-size``.
    """
    if group is None:
        return 1
    if inputs % group:
        raise CheckpointError(
            f"Groups of {group} do not divide the {inputs} input channels of {module}.",
            slug="checkpoint-group-size",
            remedy="Check group_size in quantization_config; a last group that is cut off is not supported.",
            pointer="/checkpoint",
        )
    return inputs // group
