"""`config.json`: read, bounded and refused where it asks for what an audit must not or cannot do."""

from collections.abc import Iterator
from typing import Any

from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import parse_object, quoted
from peelbound.workers.errors import CheckpointError
from peelbound.workers.keys import canonical

CONFIG_FILE = "config.json"

_REMEDY = "Restore the config.json that save_pretrained() wrote."

_BOUNDED_BY = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": (
        "hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim",
        "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "head_dim",
    ),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "num_kv_heads"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}  # fmt: skip
"""A bound of `Limits` → the names that the families give to such sizes."""


def read_config(reader: Reader, limits: Limits) -> dict[str, Any]:
    """Read `config.json` and check it before a model is built from it.

    Raises:
        CheckpointError: ``checkpoint-config-missing``, ``checkpoint-config-too-large``, ``checkpoint-config-invalid``,
            ``checkpoint-remote-code`` or ``checkpoint-config-out-of-bounds``.
    """
    if CONFIG_FILE not in reader.files:
        raise CheckpointError(
            f"The checkpoint has no {CONFIG_FILE}; found {quoted(sorted(reader.files))}.",
            slug="checkpoint-config-missing",
            remedy="Point the URI at the directory or prefix that save_pretrained() wrote.",
            pointer="/checkpoint",
        )
    raw = reader.read_whole(CONFIG_FILE, limit=limits.config_bytes, slug="checkpoint-config-too-large")
    config = parse_object(raw, file=CONFIG_FILE, slug="checkpoint-config-invalid", remedy=_REMEDY)
    return checked_config(config, CONFIG_FILE, limits)


def checked_config(config: dict[str, Any], file: str, limits: Limits) -> dict[str, Any]:
    """The config, if a model may be built from it; raises as `read_config`.

    Args:
        config: as `config.json` has it.
        file: where it came from, for messages.
        limits: bounds.
    """
    try:
        canonical(config)
    except ValueError as error:  # NaN, infinity or a lone surrogate: its digest could not be formed
        raise CheckpointError(
            f"{file} is not valid JSON: {error}.",
            slug="checkpoint-config-invalid",
            remedy=_REMEDY,
            pointer="/checkpoint",
        ) from None
    for section in _sections(config):
        _refuse_remote_code(section)
        _check_bounds(section, file, limits)
    return config


def _sections(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config itself and every object in it: families nest the decoder's config (`text_config`)."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _sections(value)


def _refuse_remote_code(section: dict[str, Any]) -> None:
    if section.get("auto_map"):
        raise CheckpointError(
            f"{CONFIG_FILE} asks for code from the checkpoint's author (auto_map: {quoted(section['auto_map'])}); "
            "it is never run.",
            slug="checkpoint-remote-code",
            remedy="Where transformers has this model_type built in, remove `auto_map` from config.json.",
            pointer="/checkpoint",
        )


def _check_bounds(section: dict[str, Any], file: str, limits: Limits) -> None:
    for bound, names in _BOUNDED_BY.items():
        most = getattr(limits, bound)
        for name in names:
            value = section.get(name)
            if value is not None and not (type(value) is int and 1 <= value <= most):
                raise CheckpointError(
                    f"{file} has {name} = {quoted(value)}; a number from 1 to {most:,} is needed.",
                    slug="checkpoint-config-out-of-bounds",
                    remedy=_REMEDY,
                    pointer="/checkpoint",
                )
