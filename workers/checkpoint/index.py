"""Which files hold the weights, and which tensor lies in which: `model.safetensors`, or an index and its shards."""

from pathlib import PurePosixPath
from typing import Any

from peelbound.workers.checkpoint.header import StoredTensor, read_header
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import parse_object, quoted
from peelbound.workers.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")
"""What a trainer leaves beside the weights, pickled as well."""
_INDEX_REMEDY = "Save the checkpoint again with save_pretrained(), which writes index and shards together."


def read_tensors(reader: Reader, limits: Limits) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by its name; headers are read and checked, weights are not.

    `model.safetensors` is taken where both it and an index exist, as transformers does.

    Raises:
        CheckpointError: ``checkpoint-pickle``, ``checkpoint-weights-missing``, ``checkpoint-index-invalid``,
            ``checkpoint-index-too-large``, ``checkpoint-shard-missing``, ``checkpoint-index-mismatch``, or what
            `read_header` raises.
    """
    if SINGLE_FILE in reader.files:
        return {tensor.name: tensor for tensor in read_header(reader, SINGLE_FILE, limits)}
    if INDEX_FILE not in reader.files:
        raise _no_weights(reader.files)
    weight_map = _read_weight_map(reader, limits)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in reader.files]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} files named in {INDEX_FILE} are missing: {quoted(missing)}.",
            slug="checkpoint-shard-missing",
            remedy="Copy the missing files, or wait until the checkpoint is written completely.",
            pointer="/checkpoint",
            files=missing[:100],
        )
    read = reader.at_once(lambda shard: _read_shard(reader, shard, weight_map, limits), shards)
    tensors = {tensor.name: tensor for shard in read for tensor in shard}
    for name, shard in weight_map.items():
        if name not in tensors:
            raise _mismatch(f"{INDEX_FILE} has {quoted(name)} in {shard}, but it is not there")
    return tensors


def _read_weight_map(reader: Reader, limits: Limits) -> dict[str, str]:
    """The index's tensor name → file name, each a plain name."""
    raw = reader.read_whole(INDEX_FILE, limit=limits.index_bytes, slug="checkpoint-index-too-large")
    index = parse_object(raw, file=INDEX_FILE, slug="checkpoint-index-invalid", remedy=_INDEX_REMEDY)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _index_invalid(f"weight_map is {quoted(weight_map)} and not an object of tensor and file names")
    if len(weight_map) > limits.tensors:
        raise _index_invalid(f"it lists {len(weight_map):,} tensors; at most {limits.tensors:,} are read")
    for tensor, file in weight_map.items():
        if not _is_plain_name(file, limits):
            raise _index_invalid(f"{quoted(tensor)} is said to be in {quoted(file)}, which is not a plain file name")
    shards = len(set(weight_map.values()))
    if shards > limits.shards:
        raise _index_invalid(f"it names {shards:,} files; at most {limits.shards:,} are read")
    return weight_map


def _is_plain_name(file: Any, limits: Limits) -> bool:
    """Whether it names a safetensors file in the checkpoint's own directory and cannot lead elsewhere."""
    return (
        isinstance(file, str)
        and len(file) <= limits.name_length
        and file.endswith(".safetensors")
        and not file.startswith(".")
        and file.isprintable()
        and "/" not in file
        and "\\" not in file
    )


def _read_shard(reader: Reader, shard: str, weight_map: dict[str, str], limits: Limits) -> list[StoredTensor]:
    """A shard's tensors, each of which the index must have in this file: so no tensor comes twice."""
    tensors = read_header(reader, shard, limits)
    for tensor in tensors:
        if tensor.name not in weight_map:
            raise _mismatch(f"{quoted(tensor.name)} is in {shard}, but not in {INDEX_FILE}")
        if weight_map[tensor.name] != shard:
            raise _mismatch(
                f"{quoted(tensor.name)} is in {shard}, but {INDEX_FILE} has it in {weight_map[tensor.name]}"
            )
    return tensors


def _no_weights(files: dict[str, int]) -> CheckpointError:
    pickles = sorted(file for file in files if _is_pickle(file))
    if pickles:
        return CheckpointError(
            f"The weights are pickle files ({quoted(pickles)}), which can run code when they are read.",
            slug="checkpoint-pickle",
            remedy=(
                "Convert them to safetensors where you trust them: "
                "AutoModelForCausalLM.from_pretrained(path).save_pretrained(out), and audit `out`."
            ),
            pointer="/checkpoint",
        )
    if "adapter_config.json" in files:
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
        f"The checkpoint has neither {SINGLE_FILE} nor {INDEX_FILE}: {problem}.",
        slug="checkpoint-weights-missing",
        remedy=remedy,
        pointer="/checkpoint",
    )


def _is_pickle(file: str) -> bool:
    return PurePosixPath(file).suffix in _PICKLE_SUFFIXES and not file.startswith(_TRAINER_STATE)


def _index_invalid(problem: str) -> CheckpointError:
    return CheckpointError(
        f"{INDEX_FILE} is not valid: {problem}.",
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
