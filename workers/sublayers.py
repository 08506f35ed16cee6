"""What attention and MLP each add to the residual stream of a block, found by watching its children at work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peelbound.workers.family import is_attention

Run = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class SublayerTrace:
    """A block's output and what its halves contributed; all [B, T, D], in one autograd graph.

    ``output = input + attention + mlp`` whenever both are given; a half whose contribution is no tensor of the
    computation is None.
    """

    output: Tensor
    attention: Tensor | None
    mlp: Tensor | None


@dataclass(frozen=True)
class Sublayers:
    """The block's children whose outputs are the contributions."""

    attention: str
    mlp: str
    attention_entries: int = 0
    """Entries of the tuple that the child returns, its contribution first; 0: a bare tensor."""
    mlp_entries: int = 0
    shaped: bool = True
    """Whether both contributions come as [B, T, D]; some families flatten the tokens."""


@dataclass(frozen=True, eq=False)
class _Call:
    child: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    entries: int


def find_sublayers(
    block: nn.Module, run: Run, h: Tensor, attention_classes: tuple[type[nn.Module], ...]
) -> Sublayers | None:
    """Learn from one pass which children's outputs go into the residual stream.

    Attention's contribution is its output, or that of a child which consumes exactly this tensor (a norm after it);
    the MLP's is the output of the last child that is called and not part of that chain. The two are taken only if
    with the input they add up to the block's output, so a block that scales or fuses its residuals gives None.

    Args:
        block: a block with weights.
        run: calls a block on a hidden state.
        h: [B, T, D] input; random values do.
        attention_classes: classes that the library records as attention.
    """
    calls: list[_Call] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            inputs = tuple(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            first, entries = (output[0], len(output)) if isinstance(output, tuple) else (output, 0)
            calls.append(_Call(name, inputs, first, entries))

        return hook

    handles = [c.register_forward_hook(watch(name), with_kwargs=True) for name, c in block.named_children()]
    try:
        with torch.no_grad():
            total = run(block, h)
    finally:
        for handle in handles:
            handle.remove()

    # Dropout at rest hands on its input: such a call changes nothing and ends no chain.
    calls = [call for call in calls if all(call.output is not x for x in call.inputs)]
    starts = [c for c in calls if is_attention(block.get_submodule(c.child), attention_classes)]
    if len(starts) != 1:
        return None
    chain = starts
    while following := [c for c in calls if any(x is chain[-1].output for x in c.inputs)]:
        if len(following) > 1:
            return None
        chain = [*chain, following[0]]
    if calls[-1] in chain:  # parallel halves may run in either order, so the last call need not be the MLP's
        return None
    attention, mlp = chain[-1], calls[-1]
    if any(sum(c.child == end.child for c in calls) > 1 for end in (attention, mlp)):
        return None
    if attention.output.numel() != h.numel() or mlp.output.numel() != h.numel():
        return None
    parts = (h, attention.output.reshape(h.shape), mlp.output.reshape(h.shape))
    error = (total - parts[0] - parts[1] - parts[2]).norm()
    if not error <= 1e-5 * torch.stack([part.norm() for part in parts]).sum():
        return None
    return Sublayers(
        attention=attention.child,
        mlp=mlp.child,
        attention_entries=attention.entries,
        mlp_entries=mlp.entries,
        shaped=attention.output.shape == h.shape == mlp.output.shape,
    )


def trace_sublayers(block: nn.Module, run: Run, h: Tensor, sublayers: Sublayers | None) -> SublayerTrace:
    """Run a block and hand out the contributions as tensors that its output depends on, so that gradients reach them.

    Args:
        block: the block.
        run: calls a block on a hidden state.
        h: [B, T, D] input; must require a gradient, or the block's parameters must, for the trace to have a graph.
        sublayers: what `find_sublayers` learned for this kind of block.
    """
    if sublayers is None:
        return SublayerTrace(run(block, h), None, None)
    caught: dict[str, Tensor] = {}

    def expose(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            # Some families flatten to [B·T, D] on the way: the block goes on with a view of what we hand out.
            caught[name] = first.reshape(h.shape)
            passed_on = caught[name].view(first.shape)
            return (passed_on, *output[1:]) if isinstance(output, tuple) else passed_on

        return hook

    names = (sublayers.attention, sublayers.mlp)
    handles = [block.get_submodule(name).register_forward_hook(expose(name)) for name in names]
    try:
        output = run(block, h)
    finally:
        for handle in handles:
            handle.remove()
    return SublayerTrace(output, caught[sublayers.attention], caught[sublayers.mlp])
