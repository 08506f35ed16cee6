"""Tensors of a file to tensors of the model: the one place that touches the library's loading internals.

Files keep the names of the code that wrote them, and often its layout. The library renames on loading (``embed_out`` of
gpt_neox becomes ``lm_head``; a base model's file lacks the prefix of the model with a head) and converts (the experts
of a layer become one parameter); a name that is missed leaves a parameter unfilled without an error. So the library's
own rules are applied, and a test pins them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, core_model_loading
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.loading_report import LoadStateDictInfo

from peelbound.workers.errors import CheckpointError, UnsupportedModel

# The fill value of attention masks, a buffer in old GPT-style files, which only some families of the library ignore.
_OBSOLETE = re.compile(r"\.masked_bias$")
# Operations that move values about and need to know nothing of model or machine.
_PURE = {"MergeModulelist", "Concatenate", "Chunk", "Transpose", "Interleave"}
_SHOWN = 3  # names listed in an error


@dataclass(frozen=True)
class Conversion:
    """One tensor of the model out of several of the files, or out of a part of one, by the library's own operations.

    Plain data, so that it travels to the workers and shows in digests.

    Attributes:
        operations: class in `transformers.core_model_loading` and its settings, in the order of application.
        sources: pattern of names and how many tensors it takes, in the order of the tensors.
        targets: patterns of what is made of them.
        layer: full name in the model of the first of these.
        made: full name of the one wanted.
    """

    operations: tuple[tuple[str, tuple[tuple[str, int | bool], ...]], ...]
    sources: tuple[tuple[str, int], ...]
    targets: tuple[str, ...]
    layer: str
    made: str

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensor of the model; the others come in the order of `Origin.names`."""
        return self.all_made(tensors)[self.made].contiguous()

    def all_made(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Everything that the conversion makes, by full name in the model."""
        operations = [getattr(core_model_loading, name)(**dict(settings)) for name, settings in self.operations]
        converter = WeightConverter([pattern for pattern, _ in self.sources], list(self.targets), operations)
        waiting = iter(tensors)
        for pattern, count in self.sources:
            for _ in range(count):
                # The library itself hands over tensors when it saves; its annotation knows of loading only.
                converter.add_tensor(self.layer, "", pattern, next(waiting))  # type: ignore[arg-type]
        made: dict[str, Tensor] = converter.convert(self.layer)
        return made


@dataclass(frozen=True)
class Origin:
    """What a tensor of the model is made of.

    Attributes:
        target: full name in the model; of what the model does not know, the file's name or nearly so.
        shape: of what is made.
        names: in the files.
        conversion: None where the one named is taken as it is.
    """

    target: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    conversion: Conversion | None = None


def origins(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> list[Origin]:
    """What every tensor of the files is, or becomes together with others, in the model.

    Args:
        model: empty model, all blocks in place.
        shapes: of the tensors, by name as the files have them.

    Raises:
        UnsupportedModel: the files need conversions that only a whole model can make (slug ``model-conversion``).
        CheckpointError: tensors that become one do not fit together (slug ``checkpoint-tensors-missing``).
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known = model.state_dict()
    found: list[Origin] = []
    collected: dict[str, dict[str, list[str]]] = {}
    for name in sorted(shapes, key=_natural):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if target not in known and name in known:  # as the library: a rule that misses its mark is not applied
            target, pattern = name, None
        if pattern is None or target not in known:
            found.append(Origin(target, tuple(shapes[name]), (name,)))
        else:
            collected.setdefault(target, {}).setdefault(pattern, []).append(name)
    for target, names in collected.items():
        converter = by_pattern[next(iter(names))]
        found += _converted(model.config.model_type, converter, target, names, shapes)
    return found


def _natural(name: str) -> list[tuple[int | str, ...]]:
    """The library's order: expert 10 comes after expert 9. It fails at digits that are not 0 to 9, as in `x²`."""
    key: list[tuple[int | str, ...]] = dot_natural_key(name) if name.isascii() else [(1, name)]
    return key


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


def _converted(
    family: str,
    converter: WeightConverter,
    layer: str,
    names: Mapping[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Origin]:
    """What a rule of the library makes of the tensors that it collected, by pattern, for one layer."""
    ordered = tuple(name for pattern in converter.source_patterns for name in names.get(pattern, ()))
    operations = tuple(_plain(family, operation) for operation in converter.operations)
    lacking = [pattern for pattern in converter.source_patterns if pattern not in names]
    for pattern, those in names.items():
        if lacking or not (_numbered(those) if "*" in pattern else len(those) == 1):
            raise _unfit(layer, ordered, f"{lacking[0] if lacking else pattern} is incomplete")
    sources = tuple((pattern, len(names[pattern])) for pattern in converter.source_patterns)
    conversion = Conversion(operations, sources, tuple(converter.target_patterns), layer, layer)
    try:
        made = conversion.all_made([torch.empty(shapes[name], device="meta") for name in ordered])
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unfit(layer, ordered, str(error)) from error
    return [
        Origin(
            target,
            tuple(tensor.shape),
            ordered,
            Conversion(conversion.operations, conversion.sources, conversion.targets, layer, target),
        )
        for target, tensor in made.items()
    ]


def _plain(family: str, operation: ConversionOps) -> tuple[str, tuple[tuple[str, int | bool], ...]]:
    """An operation as data."""
    settings = {name: value for name, value in vars(operation).items() if value is not None}
    if type(operation).__name__ not in _PURE or settings.get("check_dims"):
        raise UnsupportedModel(
            f"Files of {family!r} hold tensors in a layout that only a whole model can be read from ({operation}).",
            remedy="Only families whose blocks can be read one at a time can be audited.",
            pointer="/checkpoint",
            slug="model-conversion",
        )
    return type(operation).__name__, tuple(sorted(settings.items()))


def _numbered(names: Iterable[str]) -> bool:
    """Whether names differ in one number alone, and that counts from 0 without a gap."""
    places = zip(*(name.split(".") for name in names), strict=False)
    differing = [place for place in places if len(set(place)) > 1]
    if not differing:
        return True
    return len(differing) == 1 and differing[0] == tuple(str(number) for number in range(len(differing[0])))


def _unfit(layer: str, names: Sequence[str], why: str) -> CheckpointError:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return CheckpointError(
        f"The files lack tensors of which {layer} is made: {shown} do not fit together ({why}).",
        remedy="Save the whole model with save_pretrained, next to its own config.json.",
        pointer="/checkpoint",
        slug="checkpoint-tensors-missing",
    )
