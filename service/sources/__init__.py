"""The bytes of checkpoints and calibration data, from files or S3, behind `workers.source.ByteSource`."""

from peelbound.service.settings import Settings
from peelbound.service.sources.local import LocalSource
from peelbound.service.sources.s3 import S3Source
from peelbound.service.storage.s3_access import S3Access
from peelbound.service.uris import LocalUri, ResolvedUri
from peelbound.workers.errors import CalibrationError, CheckpointChanged, CheckpointError
from peelbound.workers.source import ByteSource

CALIBRATION_SUFFIXES = (".jsonl", ".txt")
GGUF_SUFFIX = ".gguf"
CHECKPOINT_SUFFIXES = (".json", ".safetensors", ".bin", ".metadata", ".distcp", GGUF_SUFFIX)
"""Of every file that the readers may ask for."""


def open_source(uri: ResolvedUri, settings: Settings) -> ByteSource:
    """The files directly under `uri`, or the one GGUF file that it names; their versions are those of this moment.

    Raises:
        CheckpointError: nothing is there (slug ``checkpoint-missing``), or a file and not a directory
            (``checkpoint-not-directory``), or it may not be read (``checkpoint-unreadable``).
        UriRefused: a file in it of the kinds that are read is a symlink that leaves the allow-list.
        StorageDenied, StorageUnavailable: S3 refuses or does not answer.
    """
    source = _list(uri, settings, CHECKPOINT_SUFFIXES)
    if source.files():
        return source
    file = _list_one(uri, settings)
    if any(name.lower().endswith(GGUF_SUFFIX) for name in file.files()):
        return file
    if file.files():
        raise CheckpointError(
            f"{uri.uri} is one file.",
            remedy="Give the directory that holds config.json and the weights; only a GGUF file stands alone.",
            pointer=uri.pointer,
            slug="checkpoint-not-directory",
        )
    raise CheckpointError(
        f"There is no file at {uri.uri}.",
        remedy="Give the directory that holds config.json and the weights, or a GGUF file, as the service sees it.",
        pointer=uri.pointer,
        slug="checkpoint-missing",
    )


def read_calibration(uri: ResolvedUri, settings: Settings, max_bytes: int | None = None) -> list[tuple[str, bytes]]:
    """Name and bytes of the `.jsonl` and `.txt` files directly under `uri`, by name; or of the one file that it names.

    Args:
        uri: a directory, a prefix or a file.
        settings: how to reach S3, and the bound.
        max_bytes: bound on all files together; None is the settings' `max_calibration_bytes`.

    Raises:
        CalibrationError: there is none (slug ``calibration-missing``), they are too large
            (``calibration-too-large``), or they changed meanwhile (``calibration-changed``).
        UriRefused, StorageDenied, StorageUnavailable: as `open_source`.
    """
    try:
        for source in (_list_one(uri, settings), _list(uri, settings, CALIBRATION_SUFFIXES)):
            sizes = {name: size for name, size in source.files().items() if name.endswith(CALIBRATION_SUFFIXES)}
            if sizes:
                _check_size(
                    uri, sum(sizes.values()), settings.max_calibration_bytes if max_bytes is None else max_bytes
                )
                return [(name, source.read(name, 0, sizes[name])) for name in sorted(sizes)]
    except CheckpointChanged as error:
        raise CalibrationError(
            error.detail, remedy=error.remedy, pointer=uri.pointer, slug="calibration-changed"
        ) from error
    except CheckpointError as error:
        raise CalibrationError(
            error.detail, remedy=error.remedy, pointer=uri.pointer, slug="calibration-unreadable"
        ) from error
    raise CalibrationError(
        f"There is no .jsonl or .txt file at {uri.uri}.",
        remedy="Give a .jsonl file (a document a line), a .txt file or a directory of them, as the service sees it.",
        pointer=uri.pointer,
        slug="calibration-missing",
    )


def _list(uri: ResolvedUri, settings: Settings, wanted: tuple[str, ...]) -> ByteSource:
    if isinstance(uri, LocalUri):
        return LocalSource.of_directory(uri, wanted)
    return S3Source.of_prefix(uri, S3Access.from_settings(settings))


def _list_one(uri: ResolvedUri, settings: Settings) -> ByteSource:
    if isinstance(uri, LocalUri):
        return LocalSource.of_file(uri)
    return S3Source.of_object(uri, S3Access.from_settings(settings))


def _check_size(uri: ResolvedUri, size: int, bound: int) -> None:
    if size > bound:
        raise CalibrationError(
            f"The calibration files at {uri.uri} hold {size} bytes, more than the bound of {bound}.",
            remedy="Give fewer documents: an audit reads a few thousand tokens; or raise "
            "PEELBOUND_MAX_CALIBRATION_BYTES.",
            pointer=uri.pointer,
            slug="calibration-too-large",
        )
