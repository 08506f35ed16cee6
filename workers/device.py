"""How a block's passes meet the hardware: arithmetic, compilation, transfers, threads. Nothing here knows of targets.

On the CPU with the default arithmetic all of this is the plain thing: no cast, no compilation, no copy besides the one
that makes an array torch's own.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peelbound.workers.errors import RequestError
from peelbound.workers.recipes import Arithmetic

_RECOMPILATIONS = 8
"""Variants of one block and shape: with and without gradients by weights and by input, and room for attributes."""


def autocast(arithmetic: Arithmetic, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which products of matrices are taken in the arithmetic's precision; weights stay as they are.

    bfloat16 keeps float32's range, so gradients need no scaling (Kalamkar et al. 2019, arXiv 1905.12322); weights,
    optimiser states, residual stream and norms stay in float32 (Micikevicius et al. 2018, arXiv 1710.03740).
    """
    if arithmetic.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _call(block: nn.Module, h: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return block(h, *args, **kwargs)


class Runner:
    """Calls blocks in a given arithmetic, compiled where it says so.

    What is compiled is kept by the kind of block and the shape of its input, not by block: weights are inputs of the
    compiled program, so the K blocks of a model share it.
    """

    def __init__(self, arithmetic: Arithmetic, device: torch.device, backend: str = "inductor") -> None:
        """Compile nothing yet.

        Args:
            arithmetic: of all calls.
            device: where blocks and inputs are.
            backend: of `torch.compile`.
        """
        self.arithmetic, self.device, self.backend = arithmetic, device, backend
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(
        self, block: nn.Module, h: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], *, plain: bool = False
    ) -> Tensor:
        """The block's output, [B, T, D] of the input's dtype, differentiable in `h` and the weights.

        Args:
            block: with weights.
            h: [B, T, D].
            args: what the model gives the block after the hidden state.
            kwargs: the same by name.
            plain: not to be compiled: somebody listens to the block's children for the time of this call.

        Raises:
            RequestError: the block could not be compiled (slug ``request-compile``).
        """
        call = _call if plain or not self.arithmetic.compile else self._compiled_call
        with autocast(self.arithmetic, self.device):
            output = call(block, h, args, kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result.to(h.dtype)

    def _compiled_call(self, block: nn.Module, h: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        try:
            return self._program(block, h)(block, h, args, kwargs)
        except TorchDynamoException as error:
            raise RequestError(
                f"{type(block).__name__} could not be compiled: {' '.join(str(error).split())[:300]}",
                slug="request-compile",
                remedy="Leave options.compile out, or install what torch.compile needs on the workers: a C++ compiler, "
                "and Triton for a GPU.",
                pointer="/options/compile",
            ) from error

    def _program(self, block: nn.Module, h: Tensor) -> Callable[..., Any]:
        # Dynamo does not guard hooks: blocks with and without them (rounded inputs) must not share a program.
        hooked = tuple(n for n, m in block.named_modules() if m._forward_pre_hooks or m._forward_hooks)
        kind = (type(block), hooked, tuple(h.shape))
        if kind not in self._compiled:
            self._compiled[kind] = torch.compile(  # type: ignore[call-overload] # its overloads lack the last two
                _call,
                backend=self.backend,
                dynamic=False,
                isolate_recompiles=True,
                recompile_limit=_RECOMPILATIONS,
            )
        return self._compiled[kind]


def upload(array: NDArray[np.generic], device: torch.device | str) -> Tensor:
    """The array as a tensor on the device; on the CPU they share memory where torch can write there too.

    To a GPU it goes through pinned memory and the copy is only queued: the host goes on, and whatever is queued on the
    same stream later finds it done. torch's allocator of pinned memory keeps the staging copy until then.
    """
    # Arrays out of the object store are read-only, which torch cannot express: a copy of its own.
    own = array.flags.writeable and array.flags.c_contiguous
    tensor = torch.from_numpy(array if own else np.array(array))
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """Takes tensors of a pass off the device into one array, without waiting for each.

    On a GPU every copy goes to pinned memory behind the work that makes it, and the host waits once, in `array`.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Room for the whole.

        Args:
            shape: of the array, sequences first.
            device: where its pieces will be.
        """
        self._queued = device.type == "cuda"
        self._device = device
        self._whole = torch.empty(shape, dtype=torch.float32, pin_memory=self._queued)
        self._finite = torch.ones((), dtype=torch.bool, device=device)

    def put(self, part: slice, piece: Tensor) -> None:
        """Rows `part` of the array."""
        piece = piece.detach().float()
        self._finite = self._finite & torch.isfinite(piece).all()
        self._whole[part].copy_(piece, non_blocking=self._queued)

    def finite(self) -> bool:
        """Whether all that was put is finite. Waits."""
        return bool(self._finite)

    def array(self) -> NDArray[np.float32]:
        """All of it. Waits."""
        if self._queued:
            torch.cuda.current_stream(self._device).synchronize()
        found: NDArray[np.float32] = self._whole.numpy()
        return found
