"""`pytorch_model.bin`: a state dict that `torch.save` wrote, of which no object is made."""

from math import prod

from peelbound.workers.checkpoint.header import ITEM_BYTES, StoredTensor
from peelbound.workers.checkpoint.limits import Limits
from peelbound.workers.checkpoint.reader import Reader
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.checkpoint.torch_files.archive import PICKLE, REMEDY, Archive, Window, refuse
from peelbound.workers.checkpoint.torch_files.pickled import read_pickle
from peelbound.workers.checkpoint.torch_files.tensors import NotATensor, SavedTensor, is_known, mapping
from peelbound.workers.checkpoint.torch_files.tensors import saved_tensor as tensor_of
from peelbound.workers.errors import CheckpointError


def read_weights_file(reader: Reader, file: str, limits: Limits) -> list[StoredTensor]:
    """Every tensor of the file and where its bytes lie; the directory and the pickle are read, the weights are not.

    Tensors that share a storage (tied ones, views of one) come with the same bytes.

    Raises:
        CheckpointError: ``checkpoint-torch-legacy``, ``checkpoint-truncated``, ``checkpoint-header-too-large``,
            ``checkpoint-pickle`` or ``checkpoint-torch-invalid``, naming the file and the tensor.
    """
    window = Window(file, reader.files[file], lambda start, length: reader.read(file, start, length))
    archive = Archive.open(window, limits)
    archive.check_byte_order()
    saved = state_dict(archive, limits)
    keys = sorted({tensor.key for tensor in saved.values()})
    starts = dict(zip(keys, reader.at_once(lambda key: archive.start(f"data/{key}"), keys), strict=True))
    found = []
    for name, tensor in saved.items():
        within, length = span(archive, name, tensor)
        found.append(StoredTensor(name, file, tensor.dtype, tensor.shape, starts[tensor.key] + within, length))
    return found


def state_dict(archive: Archive, limits: Limits) -> dict[str, SavedTensor]:
    """The tensors of a dictionary that the archive holds, by name."""
    title = archive.window.title
    raw = archive.read(PICKLE, limits.header_bytes)
    entries = mapping(read_pickle(raw, file=title, operations=limits.pickle_operations, known=is_known, remedy=REMEDY))
    if entries is None:
        refuse(title, "it holds no dictionary of names, each of them once")
    if len(entries) > limits.tensors:
        refuse(title, f"it holds {len(entries):,} tensors; at most {limits.tensors:,} are read")
    found: dict[str, SavedTensor] = {}
    for name, value in entries.items():
        check_name(title, name, limits)
        if mapping(value) is not None:
            raise CheckpointError(
                f"{title} holds the dictionary {quoted(name)} where a tensor is expected: more than one state dict.",
                slug="checkpoint-torch-invalid",
                remedy="Save the state dict of the model alone: torch.save(model.state_dict(), 'pytorch_model.bin').",
                pointer="/checkpoint",
            )
        try:
            found[name] = tensor_of(value, limits)
        except NotATensor as error:
            refuse(title, f"{quoted(name)} cannot be read: {error}")
    return found


def span(archive: Archive, name: str, tensor: SavedTensor) -> tuple[int, int]:
    """Bytes of the tensor's storage before it, and its own; the storage must hold them.

    Raises:
        CheckpointError: ``checkpoint-torch-invalid``.
    """
    item = ITEM_BYTES[tensor.dtype]
    size = archive.size(f"data/{tensor.key}")
    claimed = tensor.storage_bytes if tensor.elements is None else tensor.elements * item
    if claimed != size:
        refuse(archive.window.title, f"the storage of {quoted(name)} has {size:,} bytes and not {claimed:,}")
    within, length = tensor.offset * item, prod(tensor.shape) * item
    if within + length > size:
        refuse(
            archive.window.title,
            f"{quoted(name)} of shape {quoted(list(tensor.shape))} ends at byte {within + length:,} of its storage, "
            f"which has {size:,}",
        )
    return within, length


def check_name(title: str, name: str, limits: Limits) -> None:
    """Refuse names that could not be written into a report.

    Raises:
        CheckpointError: ``checkpoint-torch-invalid``.
    """
    if len(name) > limits.name_length:
        refuse(title, f"the tensor name {quoted(name)} has more than {limits.name_length} characters")
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        refuse(title, f"the tensor name {name!a} is not text")
