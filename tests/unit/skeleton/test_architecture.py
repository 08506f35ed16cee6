import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from peelbound.workers.architecture import Architecture, Placement
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from tests.tiny_models import FURTHER, MIXTURES, PROMISED, random_model, tiny_config
from tests.unit.skeleton.conftest import Subject

Subjects = Callable[[str], Subject]
Shapes = dict[str, tuple[int, ...]]

LLAMA = Architecture.from_config_json(tiny_config("llama"))
LLAMA_SHAPES: Shapes = {name: tuple(p.shape) for name, p in LLAMA.empty_model().named_parameters()}
SMALL = {key: value for key, value in tiny_config("llama").items() if isinstance(value, int)}


def refusal(call: Callable[[], Any]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert caught.value.pointer == "/checkpoint"
    assert caught.value.remedy
    return caught.value


def placed_from(placed: list[Placement], name: str) -> Placement:
    """What is made of one tensor of the files."""
    (found,) = (p for p in placed if name in p.stored)
    return found


@pytest.mark.parametrize("family", [*PROMISED, *FURTHER, *MIXTURES])
def test_every_tensor_that_the_library_saves_has_its_place(family: str, subject: Subjects) -> None:
    it = subject(family)
    shapes = {name: tuple(tensor.shape) for name, tensor in it.files.items()}
    placed = it.architecture.place(shapes)
    assert {name for p in placed for name in p.stored} == set(shapes)
    assert {p.part for p in placed} == set(range(it.architecture.block_count + 1))
    assert it.architecture.parameter_count() == sum(p.numel() for p in it.whole.parameters())
    assert it.architecture.hidden_size == it.whole.config.hidden_size
    assert it.architecture.name == type(it.whole).__name__


def test_places_are_relative_to_the_block() -> None:
    placed = LLAMA.place(LLAMA_SHAPES)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert placed_from(placed, name) == Placement(2, "self_attn.q_proj.weight", (name,))
    name = "model.embed_tokens.weight"
    assert placed_from(placed, name) == Placement(0, name, (name,))


def test_gpt_neox_heads_are_found_under_their_old_name(subject: Subjects) -> None:
    """Loaded by plain names the head stays unfilled, and the loss comes out wrong without an error."""
    files = subject("gpt_neox").files
    assert "embed_out.weight" in files
    assert "lm_head.weight" not in files
    placed = subject("gpt_neox").architecture.place({name: tuple(t.shape) for name, t in files.items()})
    assert placed_from(placed, "embed_out.weight").name == "lm_head.weight"


def test_files_of_a_base_model_lack_its_prefix(subject: Subjects) -> None:
    it = subject("gpt2")
    base = {name: tuple(t.shape) for name, t in it.whole.base_model.state_dict().items()}
    placed = it.architecture.place(base)
    assert placed_from(placed, "h.0.attn.c_attn.weight").name == "attn.c_attn.weight"
    assert placed_from(placed, "wte.weight").name == "transformer.wte.weight"


@pytest.mark.parametrize(
    ("family", "obsolete"),
    [
        ("gpt2", {"h.0.attn.bias": (1, 1, 128, 128), "transformer.h.1.attn.masked_bias": ()}),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}),
    ],
)
def test_buffers_of_old_files_have_no_place(family: str, obsolete: Shapes, subject: Subjects) -> None:
    it = subject(family)
    shapes = {name: tuple(t.shape) for name, t in it.files.items()}
    assert it.architecture.place({**shapes, **obsolete}) == it.architecture.place(shapes)


def test_a_tied_head_may_be_in_the_files_or_stand_alone() -> None:
    tied = Architecture.from_config_json(tiny_config("llama", tie_word_embeddings=True))
    without = {name: shape for name, shape in LLAMA_SHAPES.items() if name != "lm_head.weight"}
    assert tied.tied_embeddings
    assert {p.stored for p in tied.place(without)} == {(name,) for name in without}
    assert placed_from(tied.place(LLAMA_SHAPES), "lm_head.weight").name == "lm_head.weight"
    only_head = {name: shape for name, shape in LLAMA_SHAPES.items() if name != "model.embed_tokens.weight"}
    assert {p.stored for p in tied.place(only_head)} == {(name,) for name in only_head}
    neither = {name: shape for name, shape in only_head.items() if name != "lm_head.weight"}
    assert refusal(lambda: tied.place(neither)).slug == "checkpoint-tensors-missing"
    assert refusal(lambda: LLAMA.place(without)).slug == "checkpoint-tensors-missing"


@given(name=st.sampled_from(sorted(LLAMA_SHAPES)))
def test_each_missing_tensor_is_named(name: str) -> None:
    error = refusal(lambda: LLAMA.place({n: s for n, s in LLAMA_SHAPES.items() if n != name}))
    assert error.slug == "checkpoint-tensors-missing"
    assert name in error.detail


@example(name="¹")  # a digit to Python, but no number
@given(name=st.text(min_size=1).filter(lambda n: n not in LLAMA_SHAPES and f"model.{n}" not in LLAMA_SHAPES))
def test_each_stranger_is_named(name: str) -> None:
    error = refusal(lambda: LLAMA.place({**LLAMA_SHAPES, name: (1,)}))
    assert error.slug == "checkpoint-tensors-unexpected"
    assert name in error.detail


@given(name=st.sampled_from(sorted(LLAMA_SHAPES)), shape=st.lists(st.integers(0, 2**70), max_size=4).map(tuple))
def test_each_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    if shape == LLAMA_SHAPES[name]:
        assert LLAMA.place({**LLAMA_SHAPES, name: shape})
        return
    error = refusal(lambda: LLAMA.place({**LLAMA_SHAPES, name: shape}))
    assert error.slug == "checkpoint-tensor-shape"
    assert name in error.detail


def test_long_lists_are_cut_short() -> None:
    error = refusal(lambda: LLAMA.place({}))
    assert len(error.detail) < 400
    assert f"and {len(LLAMA_SHAPES) - 5} more" in error.detail


def test_two_files_tensors_in_one_place_are_refused(subject: Subjects) -> None:
    it = subject("gpt_neox")
    shapes = {name: tuple(t.shape) for name, t in it.files.items()}
    error = refusal(lambda: it.architecture.place({**shapes, "lm_head.weight": shapes["embed_out.weight"]}))
    assert error.slug == "checkpoint-tensors-duplicate"


@pytest.mark.parametrize(
    ("config", "slug"),
    [
        ({}, "checkpoint-config-invalid"),
        ({"model_type": ["llama"]}, "checkpoint-config-invalid"),
        ({"model_type": "of-tomorrow"}, "model-unknown"),
        ({"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "model-remote-code"),
        ({"model_type": "bert"}, "model-not-decoder"),
        ({"model_type": "bert-generation"}, "model-not-decoder"),
        ({"model_type": "roformer"}, "model-not-decoder"),
        ({"model_type": "t5"}, "model-not-decoder"),
        ({"model_type": "bart"}, "model-not-decoder"),
        ({"model_type": "vit"}, "model-not-decoder"),
        ({"model_type": "llama4"}, "model-not-decoder"),
        ({"model_type": "gemma3"}, "checkpoint-config-invalid"),
        ({"model_type": "llama", "is_encoder_decoder": True}, "model-not-decoder"),
        ({**SMALL, "model_type": "mamba"}, "model-shared-state"),
        # What it cannot write as a JSON number the library writes as an object: as it reads it, so do we.
        (
            {"model_type": "nemotron_h", "time_step_limit": [0.0, {"__float__": "Infinity"}], "num_hidden_layers": 1},
            "model-shared-state",
        ),
        ({"model_type": "musicgen"}, "model-not-decoder"),
        ({**SMALL, "model_type": "rwkv"}, "model-shared-state"),
        ({**SMALL, "model_type": "recurrent_gemma"}, "model-shared-state"),
        ({**SMALL, "model_type": "gemma3n_text"}, "model-shared-state"),
        ({**SMALL, "model_type": "lfm2", "layer_types": ["conv", "conv", "full_attention"]}, "model-shared-state"),
        ({**SMALL, "model_type": "hrm_text"}, "model-blocks-unclear"),
    ],
    ids=lambda value: str(value.get("model_type")) if isinstance(value, dict) else "",
)
def test_what_cannot_be_peeled_is_refused(config: dict[str, Any], slug: str) -> None:
    error = refusal(lambda: Architecture.from_config_json(config))
    assert error.slug == slug
    assert isinstance(error, UnsupportedModel) == slug.startswith("model-")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**9},
        {"hidden_size": -64},
        {"hidden_size": 0},
        {"hidden_size": 32.0},
        {"hidden_size": "32"},
        {"hidden_size": True},
        {"hidden_size": 33},
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 0},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"vocab_size": 2**62},
        {"max_position_embeddings": 10**12},
        {"intermediate_size": -1},
        {"layer_types": ["full_attention"]},
        {"hidden_act": "no such function"},
        {"partial_rotary_factor": 3.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.5}},
        {"num_hidden_layers": 2**11, "num_attention_heads": 64, "hidden_size": 64},
        {"num_mtp_layers": 10**7},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused_before_anything_is_allocated(changes: dict[str, Any]) -> None:
    raw = {**tiny_config("llama"), "head_dim": None, **changes}
    assert refusal(lambda: Architecture.from_config_json(raw)).slug == "checkpoint-config-invalid"


def test_sizes_are_checked_under_a_familys_own_names() -> None:
    for name in ("n_layer", "num_hidden_layers"):
        raw = {**tiny_config("gpt2"), name: 10**7}
        error = refusal(lambda raw=raw: Architecture.from_config_json(raw))
        assert error.slug == "checkpoint-config-invalid"
        assert name in error.detail


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"n_inner": 10**12}),
        ("opt", {"ffn_dim": 10**15}),
        ("stablelm", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1e11}}),
        ("gptj", {"rotary_dim": 10**9}),
        ("gpt_neo", {"attention_types": [[["global"], 2_000_000]]}),
    ],
)
def test_sizes_that_only_the_family_knows_are_found_in_a_dry_run(family: str, changes: dict[str, Any]) -> None:
    error = refusal(lambda: Architecture.from_config_json({**tiny_config(family), **changes}))
    assert error.slug == "checkpoint-config-invalid"


@pytest.mark.parametrize("family", [*PROMISED, *FURTHER])
def test_a_family_has_most_positions_where_the_library_cannot_run_more(family: str) -> None:
    most = Architecture.from_config_json(tiny_config(family)).most_positions
    model = random_model(family)
    assert model(input_ids=torch.full((1, 128), 3)).logits.shape[1] == 128
    too_long = {"input_ids": torch.full((1, 129), 3)}
    if most is None:
        assert model(**too_long).logits.shape[1] == 129
    else:
        assert most == 128
        with pytest.raises((IndexError, RuntimeError)):
            model(**too_long)


def test_a_classifiers_labels_cost_nothing() -> None:
    raw = {**tiny_config("llama"), "num_labels": 10**9}  # the library would make so many names
    assert Architecture.from_config_json(raw).name == "LlamaForCausalLM"


def test_remote_code_beside_a_known_family_is_not_run() -> None:
    raw = {**tiny_config("phi3"), "auto_map": {"AutoModelForCausalLM": "stranger/repository--modeling.Mine"}}
    assert Architecture.from_config_json(raw).name == "Phi3ForCausalLM"


def test_reading_a_configuration_disturbs_no_random_state_and_takes_json_alone() -> None:
    state = torch.random.get_rng_state()
    for family in PROMISED:
        Architecture.from_config_json(json.loads(json.dumps(tiny_config(family))))
    assert torch.equal(torch.random.get_rng_state(), state)
