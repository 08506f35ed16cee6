import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, LlamaConfig

from peelbound.workers.checkpoint.config import read_config
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.errors import CheckpointError


def config_file(**members):
    return {"config.json": json.dumps({"model_type": "llama", "hidden_size": 32} | members).encode()}


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "opt", "gpt_neox", "olmo2", "gemma3_text"],
)
def test_accepts_what_the_families_write(reader, family):
    written = AutoConfig.for_model(family).to_json_string(use_diff=False)
    assert read_config(reader({"config.json": written.encode()}), Limits()) == json.loads(written)


def test_names_what_was_found_where_the_config_is_missing(reader, refused):
    source = reader({"model.safetensors": b"", "README.md": b""})
    refused(lambda: read_config(source, Limits()), "checkpoint-config-missing", "config.json", "README.md")


def test_refuses_a_config_beyond_the_bound_before_reading_it(reader, refused):
    source = reader({"config.json": bytes(101)})
    refused(lambda: read_config(source, Limits(config_bytes=100)), "checkpoint-config-too-large", "101", "100")
    assert source.bytes_read == 0


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 1e999}', b'{"model_type": "\\ud800"}', b"\xff"],
)
def test_refuses_what_is_not_json(reader, refused, raw):
    refused(lambda: read_config(reader({"config.json": raw}), Limits()), "checkpoint-config-invalid", "config.json")


@pytest.mark.parametrize("nested", [False, True])
def test_never_runs_code_of_the_checkpoint(reader, refused, nested):
    asks = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    content = config_file(text_config=asks) if nested else config_file(**asks)
    refused(lambda: read_config(reader(content), Limits()), "checkpoint-remote-code", "auto_map", "modeling_evil.Evil")


def test_an_empty_request_for_code_asks_for_nothing(reader):
    assert read_config(reader(config_file(auto_map={})), Limits())["auto_map"] == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("n_layer", 513),
        ("hidden_size", 2**40),
        ("n_embd", 0),
        ("intermediate_size", -1),
        ("num_attention_heads", 10**6),
        ("vocab_size", 10**12),
        ("vocab_size", "32000"),
        ("vocab_size", 3.5),
        ("hidden_size", True),
        ("max_position_embeddings", 10**9),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_refuses_sizes_out_of_bounds(reader, refused, name, value, nested):
    content = config_file(text_config={name: value}) if nested else config_file(**{name: value})
    refused(lambda: read_config(reader(content), Limits()), "checkpoint-config-out-of-bounds", name, repr(value))


def test_takes_sizes_at_the_bound(reader):
    limits = Limits(layers=3)
    assert read_config(reader(config_file(num_hidden_layers=3)), limits)["num_hidden_layers"] == 3


members = st.sampled_from(
    ["hidden_size", "vocab_size", "num_hidden_layers", "auto_map", "quantization_config", "text_config", "x"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_refused_by_a_typed_error_or_taken_as_it_is(files, attempt, value):
    source = files({"config.json": json.dumps(value).encode()})
    outcome = attempt(lambda: read_config(Reader(source), Limits()))
    if isinstance(outcome, CheckpointError):
        assert outcome.slug.startswith(("checkpoint-", "model-"))
    else:
        assert outcome == value


def test_a_real_checkpoint_passes(tmp_path, files):
    LlamaConfig(hidden_size=32, num_hidden_layers=2).save_pretrained(tmp_path)
    assert read_config(Reader(files.under(tmp_path)), Limits())["num_hidden_layers"] == 2
