import pytest
import torch

from tests.tiny_models import FURTHER, MIXTURES, PROMISED
from tests.unit.skeleton.test_skeleton import Subjects, every_family, relative

# Their residuals are scaled or added inside a child, so no tensor of the computation is the contribution.
UNCLEAR = {"granite", "granitemoe", "falcon", "bloom", "mpt"}


@every_family
def test_contributions_add_up_to_what_the_block_does(family: str, subject: Subjects) -> None:
    it = subject(family)
    ids = it.ids()
    h = it.skeleton.embed(ids)
    for index, block in it.blocks():
        trace = it.skeleton.sublayers(index, block, h)
        assert torch.equal(trace.output, it.skeleton.run(index, block, h))
        assert (trace.attention is None) == (trace.mlp is None) == (family in UNCLEAR)
        if trace.attention is not None and trace.mlp is not None:
            assert trace.attention.shape == trace.mlp.shape == h.shape
            assert relative(h + trace.attention + trace.mlp, trace.output) < 1e-5
            # Attention looks back, the MLP does not: the first position alone tells them apart.
            assert not torch.allclose(trace.attention, trace.mlp)
        h = trace.output


@pytest.mark.parametrize("family", [f for f in (*PROMISED, *FURTHER, *MIXTURES) if f not in UNCLEAR])
def test_their_gradients_are_derivatives_by_strength(family: str, subject: Subjects) -> None:
    """⟨∂L/∂contribution, contribution⟩ is the derivative of L by a factor on the contribution: compare differences."""
    it = subject(family)
    block = it.block(2).double()
    h = it.skeleton.embed(it.ids(6)).double().requires_grad_()
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    trace = it.skeleton.sublayers(2, block, h)
    assert trace.attention is not None
    assert trace.mlp is not None
    by_attention, by_mlp = torch.autograd.grad(trace.output, (trace.attention, trace.mlp), grad_outputs=direction)
    # The MLP is the last to write: its gradient is the output's own.
    assert torch.allclose(by_mlp, direction)
    # Attention's reaches the output past the MLP as well, unless the two run side by side.
    side_by_side = family in {"gpt_neox", "phi", "cohere", "gptj"}
    assert torch.allclose(by_attention, direction) == side_by_side


def test_contributions_are_told_apart_as_the_library_names_them(subject: Subjects) -> None:
    it = subject("gemma2")
    h = it.skeleton.embed(it.ids())
    block = it.block(1)
    seen = {}
    for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
        block.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    trace = it.skeleton.sublayers(1, block, h)
    assert trace.attention is not None
    assert trace.mlp is not None
    assert torch.equal(trace.attention, seen["post_attention_layernorm"])
    assert torch.equal(trace.mlp, seen["post_feedforward_layernorm"])
