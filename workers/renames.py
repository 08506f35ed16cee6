"""Names of tensors in a file to names in the model: the one place that touches the library's loading internals.

Files keep the names of the code that wrote them. The library renames them on loading (``embed_out`` of gpt_neox becomes
``lm_head``; a base model's file lacks the prefix of the model with a head), and a name that is missed leaves a
parameter unfilled without an error. So the library's own rules are applied, and a test pins them.
"""

import re
from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.utils.loading_report import LoadStateDictInfo

from peelbound.workers.errors import UnsupportedModel

# The fill value of attention masks, a buffer in old GPT-style files, which only some families of the library ignore.
_OBSOLETE = re.compile(r"\.masked_bias$")


def rename(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """The model's name for every name in a file; names that the model does not know map to themselves or nearly so.

    Args:
        model: empty model, all blocks in place.
        names: tensor names as the files have them.

    Raises:
        UnsupportedModel: the family's files need tensors merged or split on loading (slug ``model-conversion``).
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    known = model.state_dict()
    renamed = {}
    for name in names:
        target, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if target not in known and name in known:  # as the library: a rule that misses its mark is not applied
            target, converter = name, None
        if converter is not None:
            raise UnsupportedModel(
                f"{name} of {model.config.model_type!r} is stored in another layout than the model's ({converter}).",
                remedy="Only families whose files hold the model's own tensors, one to one, can be audited.",
                pointer="/checkpoint",
                slug="model-conversion",
            )
        renamed[name] = target
    return renamed


def without_ignorable(model: PreTrainedModel, missing: set[str], unexpected: set[str]) -> tuple[set[str], set[str]]:
    """The names without those that the library itself ignores, such as the ``attn.bias`` buffers of old files."""
    report = LoadStateDictInfo(
        missing_keys=missing,
        unexpected_keys=unexpected,
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )
    model._adjust_missing_and_unexpected_keys(report)
    return report.missing_keys, {name for name in report.unexpected_keys if not _OBSOLETE.search(name)}
