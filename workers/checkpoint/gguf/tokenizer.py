"""The tokenizer of a GGUF file, as the content of a `tokenizer.json`."""

from typing import Any

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

from peelbound.workers.checkpoint.gguf.header import GgufHeader
from peelbound.workers.errors import CheckpointError
from peelbound.workers.panics import panics_caught

KEYS = tuple(f"tokenizer.{key}" for key in GGUF_TOKENIZER_MAPPING["tokenizer"])
"""What of the metadata a tokenizer is made of."""


def tokenizer_json(header: GgufHeader) -> bytes | None:
    """Made by the library's own converter; None where the file holds no tokens.

    Args:
        header: read with `KEYS` kept.

    Raises:
        CheckpointError: ``checkpoint-gguf-tokenizer``: the library cannot make one of it.
    """
    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    settings: dict[str, Any] = {
        name: header.metadata[f"tokenizer.{key}"]
        for key, name in names.items()
        if f"tokenizer.{key}" in header.metadata
    }
    if not isinstance(settings.get("tokens"), list):
        return None
    try:
        with panics_caught():
            backend, _ = convert_gguf_tokenizer(header.architecture, settings)
            content: str = backend.to_str()
    except Exception as error:  # the library and its Rust half raise whatever they like: the file is at fault
        raise CheckpointError(
            f"transformers makes no tokenizer of {header.file} ({settings.get('tokenizer_type')}): {error}",
            slug="checkpoint-gguf-tokenizer",
            remedy="Put the model's tokenizer.json beside the file and give their directory, or send token ids.",
            pointer="/checkpoint",
        ) from error
    return content.encode()
