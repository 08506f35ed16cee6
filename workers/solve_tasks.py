"""The tasks of a worker that solve: peeled blocks and refitted heads, whose solutions it stores.

Each turns a problem, a part and arrays into calls of plain functions. Bulky results are returned apart from the small
ones (`Done`), so that the controller fetches only the latter.
"""

import time
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from peelbound.workers import head, passes, solver
from peelbound.workers.blame import SOLVED
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.residency import Pieces, whole
from peelbound.workers.results import save_solution
from peelbound.workers.tasks import CorrectedProblem, Done, HeadProblem, StateProblem
from peelbound.workers.workbench import ONE_GRAIN, Workbench


class SolveTasks(Workbench):
    """Solves on the model on the bench."""

    def solve_corrected(self, problem: CorrectedProblem, part: Part, documents: Ints, *shards: Floats) -> Done:
        """Solve a block reference; shards: h[l−1], h[l], g[l] of fit, one after another. The solution is stored."""
        start = self.begin()
        third = len(shards) // 3
        before, after, gradient = shards[:third], shards[third : 2 * third], shards[2 * third :]

        def solved(resident: int) -> tuple[dict[str, Any], int]:
            self.on_step(0)
            module = self.blocks.start(problem, part)
            latents = self.blocks.latents(problem, part, module)
            found = solver.solve_corrected(
                self.skeleton,
                problem.block.index,
                module,
                before,
                after,
                gradient,
                documents,
                problem.settings,
                self.grain,
                self.on_step,
                latents,
                resident,
            )
            values = {**asdict(found), "codes_moved": self.blocks.codes_moved(problem, part, latents)}
            return values, save_solution(self.store, problem.key, module.state_dict(), values)

        grains = -(-sum(map(len, before)) // self.grain)
        values, stored = self.fitted("solve_corrected", halvings(grains), solved)
        return Done(time.perf_counter() - start, values, stored)

    def solve_state(
        self,
        problem: StateProblem,
        cut: tuple[int, int, int, int],
        *pieces: Floats | None,
    ) -> tuple[Floats, Floats, Done]:
        """Solve (or look up) a peeled block and apply it.

        Args:
            problem: the problem.
            cut: of how many pieces are its input on fit, its target on fit, its input on select and its target there:
                trained states come by shard, the output of a peeled block whole.
            pieces: these, one after another, [N, T, D] each; then, where the target is the block's own state, the
                trained state between its halves on fit, each None where they cannot be told apart.

        Returns:
            Output on fit, output on select, and values `fit_residual`, `select_residual`.
        """
        start = self.begin()
        left = iter([piece for piece in pieces if piece is not None])
        inputs, target, select, select_target = (list(islice(left, count)) for count in cut)
        between = list(left)

        def solved(resident: int) -> nn.Module:
            if problem.solved:
                return self.blocks.solved(problem.index, problem.key, free=problem.settings.free)
            block, latents = self.blocks.fresh(problem)
            solver.solve_state(
                self.skeleton,
                problem.index,
                block,
                inputs,
                target,
                problem.settings,
                problem.seed,
                self.on_step,
                latents,
                between or None,
                resident=resident == grains,
            )
            return block

        def applied(block: nn.Module, states: Pieces) -> Floats:
            return passes.forward(self.skeleton, problem.index, block, whole(states), self.grain, whose=SOLVED)

        grains = -(-sum(map(len, inputs)) // self.grain)
        # Batches are drawn at random: where not all states have room there is no use in keeping some.
        block = self.fitted("solve_state", (grains, 1), solved)
        fit_output, select_output = (
            self.one_grain("solve_state's output", partial(applied, block, states)) for states in (inputs, select)
        )
        values = {
            "fit_residual": solver.relative_error(fit_output, target),
            "select_residual": solver.relative_error(select_output, select_target),
        }
        stored = 0 if problem.solved else save_solution(self.store, problem.key, block.state_dict(), values)
        return fit_output, select_output, Done(time.perf_counter() - start, values, stored)

    def refit_head(
        self,
        problem: HeadProblem,
        fit_ids: Ints,
        fit_mask: NDArray[np.bool_],
        select_ids: Ints,
        select_mask: NDArray[np.bool_],
        pieces: int,
        *states: Floats,
    ) -> Done:
        """Refit the head on h[K] of fit, stop on select; values: step, extra parameters, losses per token by split.

        Args:
            problem: the problem.
            fit_ids: [N, T].
            fit_mask: [N, T−1].
            select_ids: the same of select.
            select_mask: the same.
            pieces: how many of the states are of fit.
            states: h[K] on fit, then on select.
        """
        start = self.begin()
        on_fit = head.HeadData(whole(states[:pieces]), fit_ids, fit_mask)
        on_select = head.HeadData(whole(states[pieces:]), select_ids, select_mask)
        found = self.one_grain(
            "refit_head",
            lambda: head.refit(
                self.skeleton, on_fit, on_select, problem.settings, problem.seed, self.grain, self.on_step
            ),
        )
        measured = {"chosen_step": found.chosen_step, "extra_parameters": self.skeleton.untied_parameters()}
        stored = save_solution(self.store, problem.key, found.parameters, measured)
        losses = {"fit": found.fit, "fit_unchanged": found.fit_unchanged, "select": found.select}
        return Done(time.perf_counter() - start, {**measured, **losses}, stored)


def halvings(grains: int) -> list[int]:
    """All grains, half of them, and so on down to 1; at least two tries."""
    tries = [grains]
    while tries[-1] > 1:
        tries.append(tries[-1] // 2)
    return tries if len(tries) > 1 else [*ONE_GRAIN]
