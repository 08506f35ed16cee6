"""How long a sequence a model takes, read off its configuration and module tree."""

from torch import nn
from transformers import PreTrainedModel

_OFFSET = 2
"""Rows that some families put before the first position's."""

_OWN_TABLES = ("mpt",)
"""Families that make a table of all positions as they run, where no module shows it."""


def stated_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the configuration says the model is made for; None where it says nothing."""
    for name in ("max_position_embeddings", "max_seq_len"):
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            return value
    return None


def most_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can run at all; None where positions are computed (rotary, ALiBi).

    What ends is a table with a row for each position: an embedding beside that of the tokens, or a constant such as
    sines or a causal mask.
    """
    stated = stated_positions(model)
    if stated is None:
        return None
    tokens = model.get_input_embeddings()
    learned = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    constant = [buffer.shape[-2] for buffer in model.buffers() if buffer.ndim > 1]
    ends = any(stated <= rows <= stated + _OFFSET for rows in learned) or stated in constant
    return stated if ends or model.config.model_type in _OWN_TABLES else None
