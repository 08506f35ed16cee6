"""The text model inside a composite of several: read as the causal language model that it is, the rest left unread.

Only families of which a test shows that the composite, given text alone, computes the same as its text model: others
mask or place tokens in ways of their own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from peelbound.workers.errors import CheckpointError

TEXT_MODELS = {"gemma3": "gemma3_text"}
"""`model_type` of a composite → that of its text model."""

_TEXT = re.compile(r"^(?:model\.language_model|language_model\.model)\.")
"""As the library names the text model since version 5, and as files name it."""
_HEAD = re.compile(r"^language_model\.lm_head\.")
_REST = re.compile(r"^(?:model\.)?(?:vision_tower|multi_modal_projector)\.")


def text_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of the text model in that of a composite; any other one as it is.

    Raises:
        CheckpointError: ``checkpoint-config-invalid``: a composite without a configuration of its text model.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in TEXT_MODELS:
        return dict(raw)
    text = raw.get("text_config")
    if not isinstance(text, dict) or text.get("model_type", TEXT_MODELS[model_type]) != TEXT_MODELS[model_type]:
        raise CheckpointError(
            f"config.json of {model_type!r} has no text_config of a {TEXT_MODELS[model_type]}.",
            remedy="Check config.json against the one that the model was trained with.",
            pointer="/checkpoint",
            slug="checkpoint-config-invalid",
        )
    # The composite ties the head, or does not, whatever its text model would do.
    ties = {"tie_word_embeddings": raw["tie_word_embeddings"]} if "tie_word_embeddings" in raw else {}
    return {**text, **ties, "model_type": TEXT_MODELS[model_type]}


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Of a composite's tensors those of its text model: the name in the text model → the name in the files."""
    return {_HEAD.sub("lm_head.", _TEXT.sub("model.", name)): name for name in names if not _REST.match(name)}
