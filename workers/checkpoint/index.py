"""Which files hold the weights, and which tensor lies in which: one file, or an index and its shards."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from peelbound.workers.checkpoint.header import StoredTensor, read_header
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import parse_object, quoted
from peelbound.workers.checkpoint.torch_files import dcp
from peelbound.workers.checkpoint.torch_files.weights_file import read_weights_file
from peelbound.workers.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Layout:
    """How a kind of file is named, and what reads the tensors of one of them.

    Attributes:
        single: name of the file that holds all weights.
        index: name of the file that lists the others.
        suffix: of the files that it lists.
        read: the tensors of a file.
    """

    single: str
    index: str
    suffix: str
    read: Callable[[Reader, str, Limits], list[StoredTensor]]


LAYOUTS = (
    Layout(SINGLE_FILE, INDEX_FILE, ".safetensors", read_header),
    Layout("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", read_weights_file),
)
"""In the order in which they are taken where a checkpoint has both, as transformers does."""

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
"""What a trainer leaves beside the weights, pickled as well."""
_INDEX_REMEDY = "Save the checkpoint again with save_pretrained(), which writes index and shards together."


def has_weights(files: Container[str]) -> bool:
    """Whether there are weights that `read_tensors` reads."""
    return dcp.METADATA_FILE in files or any(layout.single in files or layout.index in files for layout in LAYOUTS)


def read_tensors(reader: Reader, limits: Limits, model: Container[str] = ()) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by its name; headers are read and checked, weights are not.

    Safetensors are taken before torch's files and these before a distributed checkpoint, one file before an index.

    Args:
        reader: of the checkpoint.
        limits: bounds.
        model: the model's own names of its tensors, by which a distributed checkpoint's are told from the optimiser's.

    Raises:
        CheckpointError: ``checkpoint-pickle``, ``checkpoint-weights-missing``, ``checkpoint-index-invalid``,
            ``checkpoint-index-too-large``, ``checkpoint-shard-missing``, ``checkpoint-index-mismatch``, or what
            `read_header`, `read_weights_file` and `dcp.read_metadata` raise.
    """
    for layout in LAYOUTS:
        if layout.single in reader.files:
            return {tensor.name: tensor for tensor in layout.read(reader, layout.single, limits)}
        if layout.index in reader.files:
            return _read_shards(reader, layout, limits)
    if dcp.METADATA_FILE in reader.files:
        return {tensor.name: tensor for tensor in dcp.read_metadata(reader, limits, model)}
    raise _no_weights(reader.files)


def _read_shards(reader: Reader, layout: Layout, limits: Limits) -> dict[str, StoredTensor]:
    weight_map = _read_weight_map(reader, layout, limits)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in reader.files]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} files named in {layout.index} are missing: {quoted(missing)}.",
            slug="checkpoint-shard-missing",
            remedy="Copy the missing files, or wait until the checkpoint is written completely.",
            pointer="/checkpoint",
            files=missing[:100],
        )
    read = reader.at_once(lambda shard: _read_shard(reader, layout, shard, weight_map, limits), shards)
    tensors = {tensor.name: tensor for shard in read for tensor in shard}
    for name, shard in weight_map.items():
        if name not in tensors:
            raise _mismatch(f"{layout.index} has {quoted(name)} in {shard}, but it is not there")
    return tensors


def _read_weight_map(reader: Reader, layout: Layout, limits: Limits) -> dict[str, str]:
    """The index's tensor name → file name, each a plain name."""
    file = layout.index
    raw = reader.read_whole(file, limit=limits.index_bytes, slug="checkpoint-index-too-large")
    index = parse_object(raw, file=file, slug="checkpoint-index-invalid", remedy=_INDEX_REMEDY)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _index_invalid(file, f"weight_map is {quoted(weight_map)} and not an object of tensor and file names")
    if len(weight_map) > limits.indexed_tensors:
        raise CheckpointError(
            f"{file} lists {len(weight_map):,} tensors; at most {limits.indexed_tensors:,} are read.",
            slug="checkpoint-index-too-large",
            remedy="Models of so many tensors are not audited: save experts fused, as transformers does, or as GGUF.",
            pointer="/checkpoint",
        )
    for tensor, shard in weight_map.items():
        if not _is_plain_name(shard, layout.suffix, limits):
            raise _index_invalid(
                file, f"{quoted(tensor)} is said to be in {quoted(shard)}, which is not a plain file name"
            )
    shards = len(set(weight_map.values()))
    if shards > limits.shards:
        raise _index_invalid(file, f"it names {shards:,} files; at most {limits.shards:,} are read")
    return weight_map


def _is_plain_name(file: Any, suffix: str, limits: Limits) -> bool:
    """Whether it names a file of this kind in the checkpoint's own directory and cannot lead elsewhere."""
    return (
        isinstance(file, str)
        and len(file) <= limits.name_length
        and file.endswith(suffix)
        and not file.startswith(".")
        and file.isprintable()
        and "/" not in file
        and "\\" not in file
    )


def _read_shard(
    reader: Reader, layout: Layout, shard: str, weight_map: dict[str, str], limits: Limits
) -> list[StoredTensor]:
    """A shard's tensors, each of which the index must have in this file: so no tensor comes twice."""
    tensors = layout.read(reader, shard, limits)
    for tensor in tensors:
        if tensor.name not in weight_map:
            raise _mismatch(f"{quoted(tensor.name)} is in {shard}, but not in {layout.index}")
        if weight_map[tensor.name] != shard:
            raise _mismatch(
                f"{quoted(tensor.name)} is in {shard}, but {layout.index} has it in {weight_map[tensor.name]}"
            )
    return tensors


def _no_weights(files: dict[str, int]) -> CheckpointError:
    pickles = sorted(file for file in files if _is_pickle(file))
    if pickles:
        return CheckpointError(
            f"The weights are in {quoted(pickles)}; of the files that torch.save() writes only "
            f"{LAYOUTS[1].single}, and those that {LAYOUTS[1].index} lists, are read.",
            slug="checkpoint-pickle",
            remedy=(
                "Convert them to safetensors where you trust them: "
                "AutoModelForCausalLM.from_pretrained(path).save_pretrained(out), and audit `out`."
            ),
            pointer="/checkpoint",
        )
    if any(file.endswith(dcp.SUFFIX) for file in files):
        problem, remedy = (
            f"there are {dcp.SUFFIX} files, but no {dcp.METADATA_FILE}, which is written last",
            "Wait until the distributed checkpoint is written completely, or copy all of its files.",
        )
    elif "adapter_config.json" in files:
        problem, remedy = (
            "it holds an adapter only",
            "Merge the adapter into its base model (merge_and_unload()), save that, and audit it.",
        )
    else:
        problem, remedy = (
            f"found {quoted(sorted(files))}",
            "Point the URI at the directory or prefix that save_pretrained() wrote.",
        )
    return CheckpointError(
        f"The checkpoint has neither {SINGLE_FILE} nor {INDEX_FILE}, nor other weights that are read: {problem}.",
        slug="checkpoint-weights-missing",
        remedy=remedy,
        pointer="/checkpoint",
    )


def _is_pickle(file: str) -> bool:
    return PurePosixPath(file).suffix in _PICKLE_SUFFIXES and not file.startswith(_TRAINER_STATE)


def _index_invalid(file: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not valid: {problem}.",
        slug="checkpoint-index-invalid",
        remedy=_INDEX_REMEDY,
        pointer="/checkpoint",
    )


def _mismatch(problem: str) -> CheckpointError:
    return CheckpointError(
        f"Index and files do not belong together: {problem}.",
        slug="checkpoint-index-mismatch",
        remedy=_INDEX_REMEDY,
        pointer="/checkpoint",
    )
