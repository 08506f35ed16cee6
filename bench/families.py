"""Which causal language models of the installed transformers can be audited: docs/families.md.

    python -m bench.families [FAMILY ...] [--rows bench/out/families.json] [--table docs/families.md]

A tiny random model of each family is saved as the library saves it, opened as an audit opens it, and run block by block
beside the library's whole model. A family counts as supported if every hidden state and the loss agree within 1e-5.
Rows are kept: families that are named are measured again, without names all of them are.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from peelbound.service.sources.local import LocalSource
from peelbound.service.uris import LocalUri
from peelbound.workers.architecture import Architecture
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.composites import TEXT_MODELS
from peelbound.workers.errors import CheckpointError
from peelbound.workers.skeleton import Skeleton

TOLERANCE = 1e-5
VOCABULARY = 96
_MOST_PARAMETERS = 20_000_000

_Sizes = dict[str, Any]


def _all(names: str, value: int) -> _Sizes:
    return dict.fromkeys(names.split(), value)


# Small values for the names that configurations use, wherever a family has them.
_SMALL: _Sizes = {
    **_all("hidden_size n_embd d_model emb_dim embedding_size word_embed_proj_dim lru_width input_embedding_size", 32),
    **_all("output_embedding_size attention_hidden_size", 32),
    **_all("intermediate_size intermediate_size_mlp ffn_dim n_inner d_inner dff dim_ff ffn_hidden_size", 64),
    **_all("decoder_ffn_dim encoder_ffn_dim feed_forward_size", 64),
    **_all("moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size", 16),
    **_all("shared_experts_intermediate_size", 16),
    **_all("num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers", 3),
    **_all("num_encoder_layers", 3),
    **_all("num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads", 4),
    **_all("attention_heads num_decoder_attention_heads num_encoder_attention_heads linear_num_value_heads", 4),
    **_all("index_n_heads index_topk rotary_dim", 4),
    **_all("num_key_value_heads num_kv_heads linear_num_key_heads", 2),
    **_all("head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim index_head_dim d_head dim_head kv_channels", 8),
    **_all("linear_key_head_dim linear_value_head_dim kv_lora_rank q_lora_rank sliding_window", 8),
    **_all("max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length", 128),
    **_all("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    **_all("num_experts_per_tok num_experts_per_token moe_k moe_topk", 2),
    **_all("n_group topk_group first_k_dense_replace", 1),
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEPTH = _SMALL["num_hidden_layers"]
_HYBRID = ["full_attention", "conv", "full_attention"]
# What a family needs besides: where defaults are unset or fit no other size, or hide a kind of layer that it has.
_OWN: dict[str, _Sizes] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2},
    "beam": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["full_attention"] * _DEPTH,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "ffn_act_fn": {"name": "silu"}},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "gemma3": {
        "text_config": {
            **{name: _SMALL[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim")},
            **{name: _SMALL[name] for name in ("num_key_value_heads", "num_hidden_layers", "sliding_window")},
            "vocab_size": VOCABULARY,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "vision_config": {
            **{name: _SMALL[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")},
            "num_hidden_layers": 1,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": VOCABULARY - 1,
    },
    "gemma4_text": {"per_layer_config": {}, "head_dim": 8, "vocab_size_per_layer_input": VOCABULARY},
    "gemma4_unified_text": {"per_layer_config": {}, "head_dim": 8, "vocab_size_per_layer_input": VOCABULARY},
    "gpt_neo": {
        "num_layers": 2,
        "num_hidden_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "granitemoehybrid": {"layer_types": ["full_attention"] * _DEPTH, "num_local_experts": 4, "mamba_n_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": _HYBRID},
    "lfm2_moe": {"layer_types": _HYBRID, "num_dense_layers": 1},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "reformer": {"is_decoder": True},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
}


@dataclass(frozen=True)
class Row:
    """What was found of a family.

    Attributes:
        family: the library's name, `model_type` in config.json.
        name: of its class.
        outcome: `supported`, `refused`, or `not built`: the bench could make no tiny model of it.
        slug: of the refusal.
        detail: of the refusal, or why none was made.
        blocks: `dense`, `experts` or `mixed`.
        halves: whether attention's and the MLP's contributions can be told apart, in all blocks.
        fresh: whether blocks can be made anew.
    """

    family: str
    name: str
    outcome: str
    slug: str = ""
    detail: str = ""
    blocks: str = ""
    halves: bool = False
    fresh: bool = False


def tiny_config(family: str) -> PreTrainedConfig:
    """A configuration of a few thousand parameters."""
    config_class = CONFIG_MAPPING[family]
    default = config_class()
    default.allow_global_per_layer_attribute_access = True
    has = {
        name for name in (*default.to_dict(), *config_class.attribute_map) if getattr(default, name, None) is not None
    }
    small = {name: value for name, value in _SMALL.items() if name in has}
    for name in ("layer_types", "mlp_layer_types"):  # each kind of layer, in turn
        kinds = list(dict.fromkeys(getattr(default, name, None) or ()))
        if len(kinds) > 1:
            small[name] = [kinds[block % len(kinds)] for block in range(_DEPTH)]
    if "kv_lora_rank" in small:  # latent attention has as many key heads as heads
        small["num_key_value_heads"] = small["num_attention_heads"]
    config: PreTrainedConfig = config_class(**{**small, **_OWN.get(family, {})})
    return config


def tiny_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A random model in which nothing is left at a value that hides a mistake.

    Raises:
        Exception: it would not be tiny, or the sizes do not suit the family, which shows in as many ways.
    """
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if not model(input_ids=_ids(), use_cache=False).logits.isfinite().all():
                raise ValueError("its logits are not finite")
    return model


def _ids() -> Tensor:
    """[2, 24]: beyond the sliding windows."""
    return torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))


def measure(family: str) -> Row:
    """Build, save, open, and compare one family."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    try:
        config = tiny_config(family)
        model = None if family not in TEXT_MODELS and _composite(config) else tiny_model(config)
    except Exception as error:  # this bench's sizes do not suit the family: say so in the table
        return Row(family, name, "not built", detail=_first_line(error))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory).resolve()
        source = LocalUri(path, (path,), "/checkpoint")
        try:
            if model is None:
                config.save_pretrained(path)
                Checkpoint.open(LocalSource.of_directory(source))
                raise AssertionError(f"{family} is a composite and was not refused")
            model.save_pretrained(path)
            return _compared(family, model, Checkpoint.open(LocalSource.of_directory(source)))
        except CheckpointError as error:
            return Row(family, name, "refused", error.slug, error.detail)


def _composite(config: PreTrainedConfig) -> bool:
    try:
        return config.get_text_config() is not config
    except ValueError:  # it has several
        return True


def _compared(family: str, model: PreTrainedModel, checkpoint: Checkpoint) -> Row:
    architecture = checkpoint.architecture
    skeleton = Skeleton(architecture, checkpoint.read_part(0).tensors())
    indices = range(1, architecture.block_count + 1)
    blocks = [skeleton.load_block(index, checkpoint.read_part(index).tensors()) for index in indices]
    ids = _ids()
    with torch.no_grad():
        wanted, loss = _whole(model, architecture, ids)
        h = skeleton.embed(ids)
        errors, halves = [_relative(h, wanted[0])], True
        for index, block in zip(indices, blocks, strict=True):
            trace = skeleton.sublayers(index, block, h)
            halves = halves and trace.attention is not None
            h = skeleton.run(index, block, h)
            errors.append(_relative(h, wanted[index]))
        logits = skeleton.logits(h)[:, :-1].flatten(0, 1)
        errors.append(_relative(nn.functional.cross_entropy(logits, ids[:, 1:].flatten()), loss))
    if max(errors) > TOLERANCE:
        raise AssertionError(f"{family} is taken to be supported and differs by {max(errors):.1e}")
    experts = [any(linear.count > 1 for linear in architecture.linear_maps(index)) for index in indices]
    kind = "experts" if all(experts) else "mixed" if any(experts) else "dense"
    return Row(family, type(model).__name__, "supported", "", "", kind, halves, _fresh(skeleton))


def _whole(model: PreTrainedModel, architecture: Architecture, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """What goes into the first block and comes out of each, and the loss, of the library's own whole model."""
    states: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    name = architecture.blocks_name
    # A composite has another name for its decoder, whose list of blocks is called as it is elsewhere.
    blocks = (
        model.get_decoder().get_submodule(name.rpartition(".")[2])
        if architecture.text_of
        else model.get_submodule(name)
    )
    blocks = list(blocks.children())
    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    for handle in handles:
        handle.remove()
    return states, nn.functional.cross_entropy(logits, ids[:, 1:].flatten())


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def _fresh(skeleton: Skeleton) -> bool:
    try:
        skeleton.fresh_block(1, 0)
    except CheckpointError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def table(rows: Iterable[Row]) -> str:
    """The document, from the rows of all families."""
    rows = sorted(rows, key=lambda row: row.family)
    supported, refused, unbuilt = ([r for r in rows if r.outcome == o] for o in ("supported", "refused", "not built"))
    return "\n".join(
        [
            "# Model families",
            "",
            "Made by `python -m bench.families --table docs/families.md` with transformers",
            f"{transformers.__version__}. A tiny random model of each causal language model in the library was saved,",
            "opened as an audit opens it, and run block by block beside the whole model. *Supported*: all hidden",
            "states and the loss agree within 1e-5. The tiny models have every kind of layer that the family's default",
            "configuration has; what another one brings along is checked when it is audited, and refused if it must",
            "be. Of a composite that is supported the text model is audited, and its other models are left unread.",
            "",
            "Sequences beyond a table of positions are refused (`calibration-sequence-too-long`): biogpt, codegen,",
            "ctrl, gpt-sw3, gpt2, gpt_bigcode, gpt_neo, gptj, mpt, opt and trocr have one. The others compute",
            "positions, and the report says where sequences are longer than config.json says the model is made for.",
            "",
            f"{len(supported)} supported, {len(refused)} refused, {len(unbuilt)} not tried.",
            "",
            "## Supported",
            "",
            "*Blocks*: `dense`; `experts`: mixtures of experts; `mixed`: both. *Halves*: what attention and MLP each",
            "add to the residual stream can be told apart, so that the scale score is given for both. *Fresh*: blocks",
            "can be made anew from the configuration, which reference networks and the peeling matrix need.",
            "",
            "| `model_type` | class | blocks | halves | fresh |",
            "|---|---|---|---|---|",
            *map(document_row, supported),
            "",
            "## Refused",
            "",
            "| `model_type` | problem | why |",
            "|---|---|---|",
            *map(document_row, refused),
            "",
            "## Not tried",
            "",
            "The bench could build no tiny model of these. An audit of one may work: it is refused by the same checks.",
            "",
            "| `model_type` | why |",
            "|---|---|",
            *map(document_row, unbuilt),
            "",
        ]
    )


def document_row(row: Row) -> str:
    """A row of the document's tables, at most 120 characters long."""
    if row.outcome == "supported":
        return f"| {row.family} | {row.name} | {row.blocks} | {_yes(row.halves)} | {_yes(row.fresh)} |"
    start = f"| {row.family} | `{row.slug}` | " if row.slug else f"| {row.family} | "
    detail = " ".join(row.detail.replace("|", "/").replace("<", "&lt;").split())
    room = 120 - len(start) - len(" |")
    return f"{start}{detail if len(detail) <= room else detail[: room - 1] + '…'} |"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    """Measure the families named, or all, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--rows", type=Path, default=Path("bench/out/families.json"))
    parser.add_argument("--table", type=Path, help="where the document goes once every family has a row")
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    chosen.rows.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Row] = {}
    if chosen.families and chosen.rows.exists():
        rows = {kept["family"]: Row(**kept) for kept in json.loads(chosen.rows.read_text(encoding="utf-8"))}
    for family in chosen.families or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        rows[family] = measure(family)
        print(family, rows[family].outcome, rows[family].slug, rows[family].detail[:200], flush=True)
        chosen.rows.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n", encoding="utf-8")
    missing = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(rows)
    if chosen.table and not missing:
        chosen.table.write_text(table(rows.values()), encoding="utf-8")


if __name__ == "__main__":
    main()
