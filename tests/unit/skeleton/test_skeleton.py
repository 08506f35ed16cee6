import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from peelbound.workers.architecture import Architecture
from peelbound.workers.errors import CheckpointError
from peelbound.workers.skeleton import Skeleton
from tests.tiny_models import FURTHER, MIXTURES, PROMISED, random_model, tiny_config
from tests.unit.skeleton.conftest import Subject

Subjects = Callable[[str], Subject]
every_family = pytest.mark.parametrize("family", [*PROMISED, *FURTHER, *MIXTURES])


def relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def whole_states(model: PreTrainedModel, blocks_name: str, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """What goes into the first block and comes out of each, and the loss, of the library's own whole model."""
    blocks = model.get_submodule(blocks_name)
    assert isinstance(blocks, nn.ModuleList)
    states: list[Tensor] = []

    def catch_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def catch_output(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [blocks[0].register_forward_pre_hook(catch_input, with_kwargs=True)]
    handles += [block.register_forward_hook(catch_output) for block in blocks]
    loss: Tensor = model(ids, labels=ids, use_cache=False).loss
    for handle in handles:
        handle.remove()
    return states, loss


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@every_family
def test_states_and_loss_are_those_of_the_whole_model(family: str, subject: Subjects) -> None:
    it = subject(family)
    for length in (24, 5, 24):  # the calls kept for one shape must not be used for another
        ids = it.ids(length)
        with torch.no_grad():
            want, want_loss = whole_states(it.whole, it.architecture.blocks_name, ids)
            h = it.skeleton.embed(ids)
            assert relative(h, want[0]) < 1e-5
            for index, block in it.blocks():
                h = it.skeleton.run(index, block, h)
                assert relative(h, want[index]) < 1e-5
            loss = next_token_loss(it.skeleton.logits(h), ids)
        assert abs(loss - want_loss) / want_loss < 1e-5


@every_family
def test_gradients_are_those_of_the_whole_model(family: str, subject: Subjects) -> None:
    it = subject(family)
    ids = it.ids()
    whole = copy.deepcopy(it.whole)
    head_weight = nn.Parameter(whole.get_output_embeddings().weight.detach().clone())
    whole.get_output_embeddings().weight = head_weight  # untied, as the head is
    whole_states(whole, it.architecture.blocks_name, ids)[1].backward()

    blocks = it.blocks()
    head = {name: p.requires_grad_() for name, p in it.skeleton.head_parameters().items()}
    h = it.skeleton.embed(ids)
    for index, block in blocks:
        h = it.skeleton.run(index, block.requires_grad_(), h)
    next_token_loss(it.skeleton.logits(h, head), ids).backward()

    compared = dict(head)
    for index, block in blocks:
        compared |= {f"{it.architecture.blocks_name}.{index - 1}.{n}": p for n, p in block.named_parameters()}
    for name, parameter in compared.items():
        want = whole.get_parameter(name).grad
        assert parameter.grad is not None, name
        assert want is not None, name
        assert (parameter.grad - want).norm() <= 1e-4 * want.norm() + 1e-7, name
    outside = set(dict(whole.named_parameters())) - set(compared)
    assert all("embed" in name or "wte" in name or "wpe" in name or "project_in" in name for name in outside), outside


@every_family
def test_blocks_run_from_any_state_and_see_no_later_token(family: str, subject: Subjects) -> None:
    it = subject(family)
    h = torch.randn(2, 12, it.architecture.hidden_size, generator=torch.Generator().manual_seed(1))
    changed = h.clone()
    changed[:, -1] += 1.0
    for index, block in it.blocks():
        before, after = it.skeleton.run(index, block, h), it.skeleton.run(index, block, changed)
        assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-6)
        assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


@every_family
def test_logits_of_a_chunk_are_the_chunk_of_the_logits(family: str, subject: Subjects) -> None:
    it = subject(family)
    h = torch.randn(3, 7, it.architecture.hidden_size, generator=torch.Generator().manual_seed(2))
    logits = it.skeleton.logits(h)
    assert logits.shape == (3, 7, it.architecture.vocab_size)
    assert torch.allclose(it.skeleton.logits(h[1:2, 2:5]), logits[1:2, 2:5], atol=1e-5)
    assert torch.equal(it.skeleton.logits(h, it.skeleton.head_parameters()), logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "bloom"])
def test_a_single_block_is_enough(family: str) -> None:
    """With one block nothing shows between blocks whether the model expects tensors or tuples."""
    depth = {"llama": "num_hidden_layers"}.get(family, "n_layer")
    whole = random_model(family, **{depth: 1})
    architecture = Architecture.from_config_json(tiny_config(family, **{depth: 1}))
    tensors = whole.state_dict()
    rest: dict[str, Tensor] = {}
    block: dict[str, Tensor] = {}
    for placement in architecture.place({name: tuple(t.shape) for name, t in tensors.items()}):
        (block if placement.part else rest)[placement.name] = tensors[placement.stored[0]]
    skeleton = Skeleton(architecture, rest)
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.no_grad():
        h = skeleton.run(1, skeleton.load_block(1, block), skeleton.embed(ids))
        assert relative(skeleton.logits(h), whole(ids).logits) < 1e-5


def test_many_shapes_in_turn_keep_their_own_calls(subject: Subjects) -> None:
    it = subject("gemma2")
    block = it.block(1)
    first = {length: it.skeleton.run(1, block, it.skeleton.embed(it.ids(length))) for length in range(2, 12)}
    for length, want in first.items():  # the first of them were forgotten meanwhile
        h = it.skeleton.embed(it.ids(length))
        assert torch.equal(it.skeleton.run(1, block, h), want)
        assert torch.equal(Skeleton(it.architecture, it.parts[0]).run(1, block, h), want)


@pytest.mark.parametrize(
    "rope", [{"rope_type": "default", "rope_theta": 50000.0}, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}]
)
def test_rotary_frequencies_survive_the_empty_model(rope: dict[str, object]) -> None:
    raw = tiny_config("llama", rope_parameters=rope)
    want = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw)).model.rotary_emb.inv_freq
    empty = Architecture.from_config_json(raw).empty_model()
    assert torch.equal(empty.get_buffer("model.rotary_emb.inv_freq"), want)
    assert all(parameter.is_meta for parameter in empty.parameters())


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere"])
def test_a_tied_head_comes_untied(family: str, subject: Subjects) -> None:
    it = subject(family)
    assert it.architecture.tied_embeddings
    ids = it.ids()
    h = it.skeleton.embed(ids)
    before = it.skeleton.logits(h)
    head = it.skeleton.head_parameters()
    for parameter in head.values():
        parameter.zero_().add_(0.5)
    assert not torch.allclose(it.skeleton.logits(h, head), before)
    assert torch.equal(it.skeleton.embed(ids), h)
    assert torch.equal(it.skeleton.logits(h), before)


def test_two_stored_tensors_that_differ_are_not_tied(subject: Subjects) -> None:
    it = subject("gemma2")
    embedding = it.parts[0]["model.embed_tokens.weight"]
    equal, other = embedding.clone(), torch.randn_like(embedding)
    for lm_head in (equal, other):
        skeleton = Skeleton(it.architecture, {**it.parts[0], "lm_head.weight": lm_head})
        assert torch.equal(skeleton.head_parameters()["lm_head.weight"], lm_head)
        assert torch.equal(skeleton.embed(it.ids()), it.skeleton.embed(it.ids()))


def test_a_part_that_was_given_no_value_is_refused(subject: Subjects) -> None:
    it = subject("llama")
    for name in it.parts[0]:
        with pytest.raises(CheckpointError, match=name) as refusal:
            Skeleton(it.architecture, {n: t for n, t in it.parts[0].items() if n != name})
        assert refusal.value.slug == "checkpoint-tensors-missing"
    with pytest.raises(CheckpointError, match="stranger"):
        Skeleton(it.architecture, {**it.parts[0], "stranger": torch.zeros(1)})


def test_a_block_takes_half_precision_and_computes_in_float32(subject: Subjects) -> None:
    it = subject("qwen2")
    block = it.skeleton.load_block(2, {name: t.to(torch.bfloat16) for name, t in it.parts[2].items()})
    assert {p.dtype for p in block.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in block.parameters())
    assert not block.training
    with pytest.raises(RuntimeError, match="Missing key"):
        it.skeleton.load_block(2, dict(list(it.parts[2].items())[1:]))


@every_family
def test_fresh_blocks_are_the_librarys_own_and_reproducible(family: str, subject: Subjects) -> None:
    it = subject(family)
    state = torch.random.get_rng_state()
    block, again, other = (it.skeleton.fresh_block(2, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    names = dict(block.named_parameters())
    assert set(names) == {n for n, _ in it.block(2).named_parameters()}
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in names.items())
    matrices = [each.name for each in it.architecture.linear_maps(2)]
    assert not any(torch.equal(names[n], other.get_parameter(n)) for n in matrices)
    h = it.skeleton.run(2, block, torch.randn(1, 6, it.architecture.hidden_size))
    assert h.isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "phi3"])
def test_fresh_blocks_have_unit_norms_no_biases_and_the_configured_spread(family: str, subject: Subjects) -> None:
    it = subject(family)
    config = it.whole.config
    spread = getattr(config, "initializer_range", None) or config.init_std
    for name, parameter in it.skeleton.fresh_block(1, 0).named_parameters():
        if parameter.ndim == 2:
            # GPT-2 scales what goes into the residual stream by the depth, Radford et al. 2019, section 2.3.
            scale = (2 * config.num_hidden_layers) ** -0.5 if family == "gpt2" and "c_proj" in name else 1.0
            assert parameter.std().item() == pytest.approx(spread * scale, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert (parameter == 1).all(), name
