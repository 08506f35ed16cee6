"""Muon in float32, with which the benches train their small models.

torch's own (`torch.optim.Muon`) computes in bfloat16. An AMD EPYC without instructions for that
emulates them: 17 to 25 times slower for matrices of 64 to 344 rows. A step of the demo's training took 1.8 s there and
takes 0.6 s so.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration by Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/."""
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is orthogonalised, for matrices; steps as large as AdamW's (arXiv 2502.16982).

    The same as `torch.optim.Muon(…, adjust_lr_fn="match_rms_adamw")` but for its precision.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        """Take over matrices [rows, columns]; `lr` is meant as AdamW's."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # no closure, which other optimizers may call again and again
        """One step with Nesterov's momentum; matrices without a gradient stay."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)

    def _move(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = cast(dict[str, Tensor], self.state[matrix])
        average = state.setdefault("momentum", torch.zeros_like(matrix))
        average.lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalised(gradient.lerp(average, group["momentum"]))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(direction, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About the nearest matrix [rows, columns] whose singular values are all alike: between 0.7 and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: Tensor = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T
