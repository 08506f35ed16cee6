"""What a pickle of torch's says of a tensor: its storage, and which of the storage's elements it is."""

from dataclasses import dataclass
from math import prod
from typing import Any

from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.checkpoint.torch_files.pickled import Made, Name, Persistent

STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
"""A class of `torch` → the dtype as safetensors name it."""
DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
"""A dtype of `torch` → the same."""

_PARAMETER = Name("torch._utils", "_rebuild_parameter")
_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_TENSOR_OF_DTYPE = Name("torch._utils", "_rebuild_tensor_v3")
_BYTES = Name("torch.storage", "UntypedStorage")
_ORDERED = Name("collections", "OrderedDict")


class NotATensor(ValueError):
    """What the pickle describes is no tensor that is read; the message says what it is."""


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in the order of its storage's elements.

    Attributes:
        key: of its storage in the file.
        dtype: as safetensors name it.
        shape: as saved.
        offset: elements of the storage before its first.
        elements: of the storage; None where the storage counts bytes.
        storage_bytes: of the storage; None where it counts elements.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    elements: int | None
    storage_bytes: int | None


def is_known(name: Name) -> bool:
    """Whether the pickle of a state dict may name it."""
    if name.module == "torch":
        return name.name in STORAGES or name.name in DTYPES
    return name in (_PARAMETER, _TENSOR, _TENSOR_OF_DTYPE, _BYTES, _ORDERED)


def saved_tensor(value: Any, limits: Limits) -> SavedTensor:
    """What the call that would have rebuilt a tensor says of it (torch/_utils.py).

    Raises:
        NotATensor: it is something else, on no CPU-readable dtype, or not contiguous.
    """
    if isinstance(value, Made) and value.by == _PARAMETER and value.args:
        value = value.args[0]
    if not isinstance(value, Made) or value.by not in (_TENSOR, _TENSOR_OF_DTYPE):
        raise NotATensor(f"it is {described(value)} and not a tensor")
    if len(value.args) < 4:
        raise NotATensor("it is a tensor without storage, offset, size and stride")
    storage, offset, shape, strides = value.args[:4]
    if not _is_size(offset) or not is_sizes(shape, limits) or not is_sizes(strides, limits):
        raise NotATensor("it is a tensor whose offset, size or stride are no sizes")
    if len(shape) != len(strides) or not _is_contiguous(shape, strides):
        raise NotATensor(f"it is not contiguous: shape {quoted(list(shape))}, strides {quoted(list(strides))}")
    if not isinstance(storage, Persistent) or not isinstance(storage.id, tuple) or len(storage.id) != 5:
        raise NotATensor("it is a tensor without a storage")
    kind, of, key, _, count = storage.id
    if kind != "storage" or not isinstance(of, Name) or not isinstance(key, str) or not _is_size(count):
        raise NotATensor("it is a tensor whose storage is none")
    if value.by == _TENSOR and of.module == "torch" and of.name in STORAGES:
        return SavedTensor(key, STORAGES[of.name], shape, offset, count, None)
    dtype = value.args[6] if len(value.args) > 6 else None
    if of == _BYTES and isinstance(dtype, Name) and dtype.module == "torch" and dtype.name in DTYPES:
        return SavedTensor(key, DTYPES[dtype.name], shape, offset, None, count)
    raise NotATensor(f"it is a tensor with the storage {quoted(str(of))}")


def mapping(value: Any) -> dict[str, Any] | None:
    """A dictionary of the pickle by its keys; None for anything else, and where a key is no name or occurs twice."""
    if not isinstance(value, Made) or not (value.by == _ORDERED or value.by == Name("builtins", "dict")):
        return None
    if value.args or not all(isinstance(key, str) for key, _ in value.pairs):
        return None
    found = dict(value.pairs)
    return found if len(found) == len(value.pairs) else None


def is_sizes(value: Any, limits: Limits) -> bool:
    """Whether it is a tuple of sizes, few enough for a tensor."""
    return isinstance(value, tuple) and len(value) <= limits.dimensions and all(_is_size(item) for item in value)


def described(value: Any) -> str:
    """What a value of the pickle is, in few words: it may be nested without end."""
    match value:
        case Made(by=by):
            return quoted(str(by))
        case Name():
            return quoted(str(value))
        case str() | int() | float():
            return quoted(value)
        case _:
            return f"a {type(value).__name__}"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Row-major without gaps; the strides of axes of length 1, and of empty tensors, mean nothing."""
    if 0 in shape:
        return True
    steps = [prod(shape[place + 1 :]) for place in range(len(shape))]
    return all(size == 1 or stride == step for size, stride, step in zip(shape, strides, steps, strict=True))
