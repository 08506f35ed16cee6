"""The tasks of a worker that solve: peeled blocks and refitted heads, whose solutions it stores.

Each turns a problem, a part and arrays into calls of plain functions. Bulky results are returned apart from the small
ones (`Done`), so that the controller fetches only the latter.
"""

import time
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from peelbound.workers import head, passes, solver
from peelbound.workers.checkpoint.part import Part
from peelbound.workers.passes import Floats, Ints
from peelbound.workers.results import save_solution
from peelbound.workers.tasks import CorrectedProblem, Done, HeadProblem, StateProblem
from peelbound.workers.workbench import Workbench


class SolveTasks(Workbench):
    """Solves on the model on the bench."""

    def solve_corrected(self, problem: CorrectedProblem, part: Part, documents: Ints, *shards: Floats) -> Done:
        """Solve a block reference; shards: h[l−1], h[l], g[l] of fit, one after another. The solution is stored."""
        start = self.begin()
        self.on_step(0)
        before, after, gradient = _thirds(shards)
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
        )
        values = {**asdict(found), "codes_moved": self.blocks.codes_moved(problem, part, latents)}
        stored = save_solution(self.store, problem.key, module.state_dict(), values)
        return Done(time.perf_counter() - start, values, stored)

    def solve_state(
        self,
        problem: StateProblem,
        select: Floats,
        select_target: Floats,
        pieces: int,
        targets: int,
        *shards: Floats | None,
    ) -> tuple[Floats, Floats, Done]:
        """Solve (or look up) a peeled block and apply it.

        Args:
            problem: the problem.
            select: its input on select, [N, T, D].
            select_target: its target on select.
            pieces: how many of the shards are its input; the output of a peeled block comes whole.
            targets: how many shards follow that are its target.
            shards: input and target on fit, one after another; then, where the target is the block's own state, the
                trained state between its halves, each None where they cannot be told apart.

        Returns:
            Output on fit, output on select, and values `fit_residual`, `select_residual`.
        """
        start = self.begin()
        present = [shard for shard in shards if shard is not None]
        inputs, target = np.concatenate(present[:pieces]), np.concatenate(present[pieces : pieces + targets])
        between = present[pieces + targets :]
        if problem.solved:
            block = self.blocks.solved(problem.index, problem.key, free=problem.settings.free)
        else:
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
                np.concatenate(between) if between else None,
            )
        fit_output = passes.forward(self.skeleton, problem.index, block, inputs, self.grain, competitor=True)
        select_output = passes.forward(self.skeleton, problem.index, block, select, self.grain, competitor=True)
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
        select: Floats,
        *fit: Floats,
    ) -> Done:
        """Refit the head on h[K] of fit, stop on select; values: step, extra parameters, losses per token by split."""
        start = self.begin()
        found = head.refit(
            self.skeleton,
            head.HeadData(np.concatenate(fit), fit_ids, fit_mask),
            head.HeadData(select, select_ids, select_mask),
            problem.settings,
            problem.seed,
            self.grain,
            self.on_step,
        )
        measured = {"chosen_step": found.chosen_step, "extra_parameters": self.skeleton.untied_parameters()}
        stored = save_solution(self.store, problem.key, found.parameters, measured)
        losses = {"fit": found.fit, "fit_unchanged": found.fit_unchanged, "select": found.select}
        return Done(time.perf_counter() - start, {**measured, **losses}, stored)


def _thirds(shards: tuple[Floats, ...]) -> tuple[Floats, Floats, Floats]:
    n = len(shards) // 3
    return np.concatenate(shards[:n]), np.concatenate(shards[n : 2 * n]), np.concatenate(shards[2 * n :])
