"""The weights of a block that are linear maps: what is quantised, and what a matrix optimiser may take.

Found in the module tree, without a list of families: the weights of linear layers, and parameters that hold one matrix
per expert. Norms, biases, convolutions and routers are none. A router decides which experts see a token; the papers on
low-bit mixtures leave it in full precision, and so do we.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LinearMap:
    """One weight of a block: a matrix, or one for each expert.

    Attributes:
        name: of the parameter, within the block.
        shape: as the block has it.
        transposed: whether a matrix is held as [in, out] (GPT-2's ``Conv1D``, the experts of some families).
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def count(self) -> int:
        """How many matrices: of experts several."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def matrices(self, weight: Tensor) -> Tensor:
        """The parameter, or any tensor of its shape, as a view [count, out, in]."""
        stack = weight if weight.ndim == 3 else weight[None]
        return stack.mT if self.transposed else stack

    def parameter(self, matrices: Tensor) -> Tensor:
        """The inverse of `matrices`, a view of the parameter's shape."""
        stack = matrices.mT if self.transposed else matrices
        return stack if len(self.shape) == 3 else stack[0]


def linear_maps(
    block: nn.Module, hidden_size: int | None = None, routers: tuple[type[nn.Module], ...] = ()
) -> tuple[LinearMap, ...]:
    """The linear maps of a block, in the order of its parameters.

    Args:
        block: with or without weights.
        hidden_size: width of the residual stream; of experts it tells which way round they are held.
        routers: classes that the library records as routers; those that are called so are found without.
    """
    decisions = dict(_decisions(block))
    found = []
    for path, module in block.named_modules():
        if isinstance(module, routers) or type(module).__name__.endswith("Router") or _decides(path, module, decisions):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            if isinstance(module, nn.Linear | Conv1D) and name == "weight":
                found.append(LinearMap(_join(path, name), shape, isinstance(module, Conv1D)))
            elif _stacked(parameter):
                found.append(LinearMap(_join(path, name), shape, _transposed(module, hidden_size)))
    order = {name: place for place, (name, _) in enumerate(block.named_parameters())}
    return tuple(sorted(found, key=lambda each: order[each.name]))


def _stacked(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 3 and min(parameter.shape[1:]) > 1


def _decisions(block: nn.Module) -> Iterator[tuple[str, int]]:
    """Where experts are, and how many: path of the module that holds them together with their router."""
    for path, module in block.named_modules():
        stacks = [parameter for parameter in module.parameters(recurse=False) if _stacked(parameter)]
        if stacks or isinstance(module, nn.ModuleList):
            yield path.rpartition(".")[0], stacks[0].shape[0] if stacks else len(module)


def _decides(path: str, module: nn.Module, decisions: dict[str, int]) -> bool:
    """Whether a linear layer beside experts gives one number for each of them, or one for the expert that all share."""
    return isinstance(module, nn.Linear) and any(
        path.startswith(f"{place}.") and module.out_features in (1, count) for place, count in decisions.items()
    )


def _transposed(module: nn.Module, hidden_size: int | None) -> bool:
    """Whether experts are held as [count, in, out]: as the library says, else as the larger of two shows.

    That is the one that leaves the residual stream: gate and up side by side.
    """
    said = getattr(module, "is_transposed", None)
    if said is not None:
        return bool(said)
    stacks = [parameter for parameter in module.parameters(recurse=False) if _stacked(parameter)]
    largest = max(stacks, key=lambda stack: stack.numel())
    return len(stacks) > 1 and largest.shape[1] == hidden_size != largest.shape[2]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
