"""Whether two checkpoints are of one architecture, so that a block of one may stand in the other."""

from typing import Any

from peelbound.workers.architecture import Architecture
from peelbound.workers.errors import RequestError

_BOOKKEEPING = frozenset(
    {
        "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "finetuning_task", "id2label",
        "initializer_range", "is_decoder", "label2id", "max_position_embeddings", "model_max_length", "n_positions",
        "output_attentions", "output_hidden_states", "pretraining_tp", "problem_type", "quantization_config",
        "return_dict", "summary_type", "task_specific_params", "tie_word_embeddings", "tokenizer_class",
        "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Entries of a config that no block's output depends on; tied embeddings are the parts' own affair."""
_BOOKKEEPING_ENDS = ("_name_or_path", "_token_id", "dropout", "pdrop", "_implementation")
_SHOWN = 3


def require_same(audited: Architecture, baseline: Architecture) -> None:
    """Refuse a baseline whose blocks are not those of the audited model with other weights.

    Raises:
        RequestError: slug ``request-baseline-architecture``, naming what differs.
    """
    differing = differences(audited, baseline)
    if differing:
        shown = "; ".join(differing[:_SHOWN]) + ("; …" if len(differing) > _SHOWN else "")
        raise RequestError(
            f"The baseline is not of the audited checkpoint's architecture: {shown}.",
            slug="request-baseline-architecture",
            remedy="Name the checkpoint that this one was quantised from, or leave baseline out.",
            pointer="/baseline",
        )


def differences(audited: Architecture, baseline: Architecture) -> list[str]:
    """What sets two architectures apart, in words; none where blocks may be exchanged."""
    if audited.name != baseline.name:
        return [f"{baseline.name} is no {audited.name}"]
    own, other = _settings(audited), _settings(baseline)
    return [
        f"{key} is {other.get(key)!r}, not {own.get(key)!r}"
        for key in sorted(own.keys() | other.keys())
        if own.get(key) != other.get(key)
    ]


def _settings(architecture: Architecture) -> dict[str, Any]:
    return {
        key: value
        for key, value in architecture.settings().items()
        if key not in _BOOKKEEPING and not key.endswith(_BOOKKEEPING_ENDS)
    }
