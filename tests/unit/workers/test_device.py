"""Arithmetic, compilation and transfers, on the CPU: the same code path but for the copies that a GPU queues."""

import numpy as np
import pytest
import torch
from torch import nn

from peelbound.workers import passes, solver
from peelbound.workers.device import Download, Runner, autocast, upload
from peelbound.workers.errors import RequestError
from peelbound.workers.recipes import FLOAT32, Arithmetic, CorrectedSettings, StateSettings
from peelbound.workers.skeleton import Skeleton
from tests.numerics import GRAIN, Subject, no_interruption

CPU = torch.device("cpu")
BFLOAT16 = Arithmetic(precision="bfloat16")


def in_arithmetic(subject: Subject, arithmetic: Arithmetic) -> Skeleton:
    return Skeleton(subject.architecture, subject.parts[0], arithmetic=arithmetic)


def test_the_default_arithmetic_is_the_librarys_own_to_the_last_bit(trained: Subject) -> None:
    h = torch.from_numpy(trained.h(1))
    states = passes.forward(in_arithmetic(trained, FLOAT32), 2, trained.block(2), h.numpy(), GRAIN)
    np.testing.assert_allclose(states, trained.h(2), rtol=1e-5, atol=1e-6)
    assert np.array_equal(states, passes.forward(trained.skeleton, 2, trained.block(2), h.numpy(), GRAIN))


def test_products_are_taken_in_bfloat16_and_the_residual_stream_stays_in_float32(trained: Subject) -> None:
    seen: dict[str, torch.dtype] = {}
    block = trained.block(2)
    for name, child in block.named_modules():
        if isinstance(child, nn.Linear):
            child.register_forward_hook(lambda _, __, output, n=name: seen.update({n: output.dtype}))
    h = torch.from_numpy(trained.h(1))
    output = in_arithmetic(trained, BFLOAT16).run(2, block, h)
    assert set(seen.values()) == {torch.bfloat16}
    assert output.dtype == torch.float32
    assert {p.dtype for p in block.parameters()} == {torch.float32}
    error = (output - torch.from_numpy(trained.h(2))).norm() / (output - h).norm()
    assert 1e-5 < error < 0.02  # 8 bits of mantissa: rounded, and no more than that


def test_gradients_and_scale_products_under_bfloat16_are_those_of_float32_but_for_rounding(trained: Subject) -> None:
    got, want = (
        passes.backward(in_arithmetic(trained, a), 2, trained.block(2), trained.h(1), trained.g(2), GRAIN)
        for a in (BFLOAT16, FLOAT32)
    )
    assert got.gradient.dtype == np.float32
    assert np.linalg.norm(got.gradient - want.gradient) < 0.02 * np.linalg.norm(want.gradient)
    for a, b in ((got.attention, want.attention), (got.mlp, want.mlp)):
        assert a is not None
        assert b is not None
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)


def test_a_solve_in_bfloat16_moves_float32_weights_and_promises_about_the_same_gain(trained: Subject) -> None:
    settings = CorrectedSettings(rho=0.3, steps=6, learning_rate=2e-3, gradient_clip=5.0, outlier=10.0)
    documents = np.zeros(trained.ids.shape, np.int64) + np.arange(len(trained.ids))[:, None]
    data = (trained.h(1), trained.h(2), trained.g(2), documents)
    gains = []
    for arithmetic in (FLOAT32, BFLOAT16):
        skeleton, block = in_arithmetic(trained, arithmetic), trained.block(2)
        found = solver.solve_corrected(skeleton, 2, block, *data, settings, GRAIN, no_interruption)
        gains.append(found.predicted_gain)
        assert {p.dtype for p in block.parameters()} == {torch.float32}
    assert gains[0] > 0
    assert gains[1] == pytest.approx(gains[0], rel=0.1)


def test_blocks_of_one_kind_and_shape_share_one_compiled_program(trained: Subject) -> None:
    torch._dynamo.reset()
    programs = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        programs.append(graph)
        return graph.forward

    plain, compiled = trained.skeleton, in_arithmetic(trained, Arithmetic(compile=True))
    compiled._runner.backend = count  # type: ignore[assignment] # torch takes a name or a function
    for index in range(1, trained.blocks + 1):
        h = torch.from_numpy(trained.h(index - 1))
        with torch.no_grad():
            want = plain.run(index, trained.block(index), h)
            assert torch.equal(compiled.run(index, trained.block(index), h), want)
    assert len(programs) == 1
    with torch.no_grad():
        compiled.run(1, trained.block(1), torch.from_numpy(trained.h(0)[:1]))
    assert len(programs) == 2
    torch._dynamo.reset()


def test_a_compiled_solve_reaches_the_weights_of_a_plain_one(trained: Subject) -> None:
    torch._dynamo.reset()
    settings = StateSettings(steps=5, learning_rate=1e-2, batch=2, schedule="linear", halves=True)
    solved = []
    for arithmetic in (FLOAT32, Arithmetic(compile=True)):
        skeleton = in_arithmetic(trained, arithmetic)
        skeleton._runner.backend = "aot_eager"  # traces forward and backward as inductor does, without a C++ compiler
        block = skeleton.fresh_block(2, 0)
        solver.solve_state(skeleton, 2, block, trained.h(1), trained.h(2), settings, 0, no_interruption)
        solved.append(torch.cat([p.flatten() for p in block.parameters()]))
    torch.testing.assert_close(solved[1], solved[0], rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def test_a_block_with_hooks_does_not_run_the_program_compiled_without_them(trained: Subject) -> None:
    torch._dynamo.reset()
    runner = in_arithmetic(trained, Arithmetic(compile=True))
    runner._runner.backend = "eager"
    h = torch.from_numpy(trained.h(1))
    with torch.no_grad():
        before = runner.run(2, trained.block(2), h)
        hooked = trained.block(2)
        first = next(m for m in hooked.modules() if isinstance(m, nn.Linear))
        first.register_forward_pre_hook(lambda _, args: (args[0] * 0, *args[1:]))
        assert not torch.equal(runner.run(2, hooked, h), before)
    torch._dynamo.reset()


def test_a_block_that_cannot_be_compiled_is_a_fault_of_the_request(trained: Subject) -> None:
    torch._dynamo.reset()

    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        raise FileNotFoundError("no compiler on this machine")

    skeleton = in_arithmetic(trained, Arithmetic(compile=True))
    skeleton._runner.backend = broken  # type: ignore[assignment] # torch takes a name or a function
    with pytest.raises(RequestError, match=r"LlamaDecoderLayer could not be compiled.*no compiler") as caught:
        skeleton.run(2, trained.block(2), torch.from_numpy(trained.h(1)))
    assert (caught.value.slug, caught.value.pointer) == ("request-compile", "/options/compile")
    torch._dynamo.reset()


def test_sublayers_are_found_and_listened_to_in_a_compiled_skeleton(trained: Subject) -> None:
    skeleton = in_arithmetic(trained, Arithmetic(compile=True))
    skeleton._runner.backend = "eager"
    h = torch.from_numpy(trained.h(1))
    trace = skeleton.sublayers(2, trained.block(2), h)
    assert trace.attention is not None
    assert trace.mlp is not None
    torch.testing.assert_close(trace.output, h + trace.attention + trace.mlp)


def test_autocast_ends_with_its_context() -> None:
    a = torch.ones(2, 2)
    with autocast(BFLOAT16, CPU):
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32


def test_arrays_that_torch_may_write_to_are_taken_as_they_are_and_others_are_copied() -> None:
    own = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    assert upload(own, CPU).data_ptr() == own.ctypes.data
    held = own.copy()
    held.flags.writeable = False
    copied = upload(held, CPU)
    copied += 1
    assert np.array_equal(held, own)
    assert torch.equal(upload(own[:, ::2], CPU), torch.tensor([[0.0, 2.0], [3.0, 5.0]]))


def test_a_download_holds_every_piece_in_its_place_and_knows_of_one_that_is_not_finite() -> None:
    down = Download((3, 2), CPU)
    down.put(slice(2, 3), torch.full((1, 2), 3.0, dtype=torch.bfloat16))
    down.put(slice(0, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert down.finite()
    assert np.array_equal(down.array(), np.array([[1, 2], [3, 4], [3, 3]], dtype=np.float32))
    down.put(slice(0, 1), torch.tensor([[1.0, float("inf")]]))
    assert not down.finite()


def test_a_runner_hands_on_what_the_model_gives_a_block() -> None:
    class Block(nn.Module):
        def forward(self, h: torch.Tensor, shift: float, *, factor: float) -> tuple[torch.Tensor, None]:
            return h * factor + shift, None

    assert torch.equal(
        Runner(FLOAT32, CPU)(Block(), torch.ones(1, 2, 3), (1.0,), {"factor": 2.0}), torch.full((1, 2, 3), 3.0)
    )
