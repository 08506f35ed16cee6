"""A model without its blocks: runs embedding, any one block at a time, and the head, exactly as the library would.

Every block of the library's model is replaced by a stub that hands the hidden state on and keeps the call it got: the
masks, rotary tables and positions that the model made for it. A block is then run with the call of its own place.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peelbound.workers.architecture import Architecture
from peelbound.workers.device import Runner
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from peelbound.workers.recipes import FLOAT32, Arithmetic
from peelbound.workers.sublayers import Run, Sublayers, SublayerTrace, find_sublayers, trace_sublayers

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Shapes whose calls are kept: the grain's, the last grain's, and room for a probe. Masks grow with T².
_KEPT_SHAPES = 4


class _Stub(nn.Module):
    """Stands in a block's place: hands its input on and keeps the call it got.

    Attributes that the model asks a block for (its attention type, say) are the empty block's.
    """

    def __init__(self, block: nn.Module, before: "_Stub | None") -> None:
        super().__init__()
        # Not children: the skeleton has no parameters of a block.
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "before", before)
        self.returns_tuple = False
        self.override: Tensor | None = None
        self.forget()

    def forget(self) -> None:
        self.given: Tensor | None = None
        self.call: Call = ((), {})

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None and hidden_states is not self.before.given:
            raise _not_separable("the hidden state changes between two blocks")
        self.given, self.call = hidden_states, (args, kwargs)
        output = hidden_states if self.override is None else self.override
        return (output,) if self.returns_tuple else output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.block, name)


class Skeleton:
    """Embedding, block calls and head of one checkpoint, in fp32; no block's weights.

    Not thread-safe. Nothing in it requires a gradient; gradients flow to what the caller passes in.
    """

    def __init__(
        self,
        architecture: Architecture,
        rest: Mapping[str, Tensor],
        device: str | torch.device = "cpu",
        arithmetic: Arithmetic = FLOAT32,
    ) -> None:
        """Fill the parts outside the blocks.

        Args:
            architecture: the checkpoint's.
            rest: part 0 of the checkpoint by full parameter name.
            device: where everything is computed.
            arithmetic: of the blocks; embedding and head stay in float32.

        Raises:
            CheckpointError: a parameter was left without a value (slug ``checkpoint-tensors-missing``).
            UnsupportedModel: the blocks depend on more than the hidden state and their place
                (slug ``model-shared-state``).
        """
        self.architecture = architecture
        self.device = torch.device(device)
        self._runner = Runner(arithmetic, self.device)
        self._model = architecture.empty_model()
        blocks = self._model.get_submodule(architecture.blocks_name)
        assert isinstance(blocks, nn.ModuleList)
        self._empty_blocks = list(blocks)
        self._stubs: list[_Stub] = []
        for block in blocks:
            self._stubs.append(_Stub(block, before=self._stubs[-1] if self._stubs else None))
        self._model.set_submodule(architecture.blocks_name, nn.ModuleList(self._stubs))
        self._fill(rest)
        self._calls: OrderedDict[tuple[int, int], list[Call]] = OrderedDict()
        self._sublayers: dict[tuple[type, tuple[tuple[str, type], ...]], Sublayers | None] = {}
        self._settle_stubs()
        self._head_names = self._find_head()

    # -- states ------------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] (int64) -> h[0] [B, T, D], what the first block receives."""
        shape = (ids.shape[0], ids.shape[1])
        h, calls = self._walk(ids.to(self.device))
        self._calls.setdefault(shape, calls)
        while len(self._calls) > _KEPT_SHAPES:
            self._calls.popitem(last=False)
        return h

    def run(self, index: int, block: nn.Module, h: Tensor, *, plain: bool = False) -> Tensor:
        """Run `block` at place `index` (1..K): [B, T, D] -> [B, T, D], differentiable in `h` and the block.

        `plain` leaves out compilation, for callers that listen to the block's children.
        """
        shape = (h.shape[0], h.shape[1])
        if shape not in self._calls:
            self.embed(torch.zeros(shape, dtype=torch.int64))
        args, kwargs = self._calls[shape][index - 1]
        return self._runner(block, h, args, kwargs, plain=plain)

    def sublayers(self, index: int, block: nn.Module, h: Tensor) -> SublayerTrace:
        """Run `block` and hand out what attention and MLP add to the residual stream (None where it cannot be told)."""
        return trace_sublayers(block, self._plain(index), h, self.sublayer_children(index, block))

    def sublayer_children(self, index: int, block: nn.Module) -> Sublayers | None:
        """Which children of `block` are its attention and MLP; None where their outputs are not what it adds."""
        kind = (type(block), tuple((name, type(child)) for name, child in block.named_children()))
        if kind not in self._sublayers:
            width = self.architecture.hidden_size
            noise = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0)).to(self.device)
            run, attention = self._plain(index), self.architecture.attention_classes
            self._sublayers[kind] = find_sublayers(block, run, noise, attention)
        return self._sublayers[kind]

    def _plain(self, index: int) -> Run:
        return lambda module, state: self.run(index, module, state, plain=True)

    # -- blocks ------------------------------------------------------------------------------------------------------

    def load_block(self, index: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A block with the given weights, in eval mode, without gradients.

        The block takes the tensors over where their dtype and device fit already; change them in place and it changes.

        Args:
            index: its place, 1..K.
            tensors: every tensor of the part, by name within the block.
        """
        block = copy.deepcopy(self._empty_blocks[index - 1])
        block.load_state_dict(self._here(tensors), strict=True, assign=True)
        self._refuse_meta(block, f"block {index}")
        return self._at_rest(block)

    def fresh_block(self, index: int, seed: int) -> nn.Module:
        """A block as the library initialises it, equal for equal seeds on every device; global generators stay put."""
        empty = self._empty_blocks[index - 1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                block = type(empty)(self._model.config, index - 1)
            except TypeError as error:
                raise UnsupportedModel(
                    f"Blocks of {self.architecture.name} cannot be made from their configuration: {error}.",
                    remedy="Ask only for solutions that start from the trained block.",
                    pointer="/checkpoint",
                    slug="model-no-fresh-block",
                ) from error
            block.apply(self._model._init_weights)
        return self._at_rest(block)

    # -- head --------------------------------------------------------------------------------------------------------

    def head_parameters(self) -> dict[str, Tensor]:
        """Clones of the parameters that act after the last block: final norm, output projection; a tied one untied."""
        return {name: self._model.get_parameter(name).detach().clone() for name in self._head_names}

    def untied_parameters(self) -> int:
        """How many numbers `head_parameters` hold that the model shares with its other parts: those of a tied head."""
        names = dict(self._model.named_parameters(remove_duplicate=False))
        shared = {p for name, p in names.items() if name not in self._head_names}
        return sum(names[name].numel() for name in self._head_names if names[name] in shared)

    def logits(self, h: Tensor, head: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's own way from the last block's output to logits: [B, T, D] -> [B, T, V].

        Args:
            h: h[K], or any part of it.
            head: values in place of `head_parameters`; differentiable in them and in `h`.
        """
        batch, length, width = h.shape
        # Every step after the blocks works on one position at a time, so positions go as a batch of length one: no
        # mask is built and no limit on positions applies.
        ids = torch.zeros((batch * length, 1), dtype=torch.int64, device=self.device)
        with self._entering(h.reshape(batch * length, 1, width)):
            logits: Tensor = torch.func.functional_call(
                self._model, dict(head or {}), (ids,), {"use_cache": False}, tie_weights=False
            ).logits
        return logits.reshape(batch, length, -1)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _fill(self, rest: Mapping[str, Tensor]) -> None:
        result = self._model.load_state_dict(self._here(rest), strict=False, assign=True)
        if result.unexpected_keys:
            raise CheckpointError(
                f"{self.architecture.name} has no place for {result.unexpected_keys[0]} outside its blocks.",
                pointer="/checkpoint",
                slug="checkpoint-tensors-unexpected",
            )
        # The library's own rule: ties what the file lacks; two stored tensors that differ stay two.
        self._model.tie_weights(missing_keys=set(result.missing_keys), recompute_mapping=False)
        self._refuse_meta(self._model, "the parts outside the blocks")
        self._at_rest(self._model)

    def _at_rest(self, module: nn.Module) -> nn.Module:
        module.to(self.device)
        return module.requires_grad_(False).eval()

    def _here(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, torch.float32) for name, tensor in tensors.items()}

    def _refuse_meta(self, module: nn.Module, what: str) -> None:
        left = [n for n, t in (*module.named_parameters(), *module.named_buffers()) if t.device.type == "meta"]
        if left:
            raise CheckpointError(
                f"{left[0]} in {what} of {self.architecture.name} was given no value.",
                remedy="Save the whole model with save_pretrained, next to its own config.json.",
                pointer="/checkpoint",
                slug="checkpoint-tensors-missing",
            )

    @torch.no_grad()
    def _walk(self, ids: Tensor) -> tuple[Tensor, list[Call]]:
        """One pass over the stubs: h[0] and each block's call. Calls share their tensors as the model shares them."""
        self._model.base_model(input_ids=ids, use_cache=False)
        h, calls = self._stubs[0].given, [stub.call for stub in self._stubs]
        assert h is not None
        self._forget()
        return h, calls

    def _forget(self) -> None:
        for stub in self._stubs:
            stub.forget()

    @contextmanager
    def _entering(self, h: Tensor) -> Iterator[None]:
        """Let the model go on from `h` after its last block."""
        last = self._stubs[-1]
        last.override = h
        try:
            yield
        finally:
            last.override = None
            self._forget()

    @torch.no_grad()
    def _settle_stubs(self) -> None:
        """Learn whether blocks return tuples, and see that a block's call depends on nothing but the input's shape."""
        ids = torch.zeros((2, 4), dtype=torch.int64, device=self.device)
        if not self._passes(ids):
            for stub in self._stubs:
                stub.returns_tuple = True
        try:
            h, calls = self._walk(ids)
        except (ValueError, TypeError, IndexError, AttributeError) as error:  # it misses what blocks hand on besides
            raise _not_separable(f"they hand on more than the hidden state ({error})") from error
        if h.shape != (*ids.shape, self.architecture.hidden_size):
            raise _not_separable(f"they work on a hidden state of shape {list(h.shape)}")
        _, others = self._walk((ids + 1) % self.architecture.vocab_size)
        if not _same(calls, others):
            raise _not_separable("they are given more than the hidden state and tables of its shape")

    def _passes(self, ids: Tensor) -> bool:
        """Whether stubs that return bare tensors suit the model: one that expects tuples keeps one sequence only."""
        try:
            return bool(self._model(input_ids=ids, use_cache=False).logits.shape[:2] == ids.shape)
        except (UnsupportedModel, IndexError, ValueError, TypeError):  # a stub or the head lacks a dimension or a value
            return False

    def _find_head(self) -> list[str]:
        """Names of the parameters on the path from h[K] to the logits, each tied name on its own."""
        leaves = {
            name: parameter.detach().requires_grad_()
            for name, parameter in self._model.named_parameters(remove_duplicate=False)
        }
        with torch.enable_grad():
            logits = self.logits(torch.zeros((1, 1, self.architecture.hidden_size), device=self.device), leaves)
        used = _graph_leaves(logits)
        return [name for name, leaf in leaves.items() if leaf in used]


def _not_separable(why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The blocks cannot be run one at a time: {why}.",
        remedy="Audit a decoder-only transformer whose blocks see nothing but the hidden state.",
        pointer="/checkpoint",
        slug="model-shared-state",
    )


def _graph_leaves(output: Tensor) -> set[Tensor]:
    """The leaves that a gradient of `output` would reach, without computing one (it would be as large as the head)."""
    leaves: set[Tensor] = set()
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        waiting.extend(following for following, _ in node.next_functions)
    return leaves


def _same(one: Any, other: Any) -> bool:
    """Whether two calls are equal and of plain values: anything else, such as a cache, could carry state along."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return isinstance(one, bool | int | float | str | None) and bool(one == other)
