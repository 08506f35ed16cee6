"""From a request to what it names: the checkpoint, opened and checked, and the packed calibration set."""

from dataclasses import dataclass

from peelbound.service.schemas.request import AuditRequest
from peelbound.service.settings import Settings
from peelbound.service.sources import open_source, read_calibration
from peelbound.service.uris import AllowList
from peelbound.workers.calibration import CalibrationSet, build, inline_documents, parse_documents
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.encoder import Document
from peelbound.workers.errors import CalibrationError, pointing
from peelbound.workers.quantisers.conversion import already_low_bit, require_fitting
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.same_architecture import require_same
from peelbound.workers.source import ByteSource


@dataclass(frozen=True)
class Original:
    """The checkpoint before quantisation."""

    source: ByteSource
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Inputs:
    """What an audit reads."""

    source: ByteSource
    checkpoint: Checkpoint
    calibration: CalibrationSet
    baseline: Original | None = None


def open_inputs(request: AuditRequest, settings: Settings) -> Inputs:
    """Open the checkpoint (no weights are read) and pack the calibration set.

    Raises:
        UserError: whatever is wrong with either, with a pointer to the request's field.
        StorageUnavailable: the storage did not answer.
    """
    allowed = AllowList(settings.allow)
    source = open_source(allowed.resolve(request.checkpoint, "/checkpoint"), settings)
    checkpoint = Checkpoint.open(source)
    _require_what_if(request, checkpoint)
    _require_positions(request, checkpoint)
    baseline = _open_baseline(request, allowed, settings, checkpoint)
    asked = request.calibration
    calibration = build(
        _documents(request, allowed, settings),
        tokenizer_json=checkpoint.tokenizer_json(),
        vocab_size=checkpoint.architecture.vocab_size,
        eos_id=_end_of_text(checkpoint),
        sequence_length=asked.sequence_length,
        budgets={"fit": asked.fit_sequences, "select": asked.select_sequences, "check": asked.check_sequences},
        seed=asked.split_seed,
    )
    return Inputs(source, checkpoint, calibration, baseline)


def _open_baseline(
    request: AuditRequest, allowed: AllowList, settings: Settings, checkpoint: Checkpoint
) -> Original | None:
    """The baseline, opened like the checkpoint.

    Raises:
        RequestError: it is of another architecture (slug ``request-baseline-architecture``).
        UserError: whatever else is wrong with it, with the pointer ``/baseline``.
    """
    if request.baseline is None:
        return None
    with pointing("/baseline"):
        source = open_source(allowed.resolve(request.baseline, "/baseline"), settings)
        baseline = Checkpoint.open(source)
    require_same(checkpoint.architecture, baseline.architecture)
    return Original(source, baseline)


def _require_what_if(request: AuditRequest, checkpoint: Checkpoint) -> None:
    """Refuse a class that the model cannot be rounded to, as far as shapes and the stored format tell."""
    if request.what_if is None:
        return
    if checkpoint.encoding.packed:
        raise already_low_bit(f"the checkpoint is packed ({checkpoint.encoding.detail})", request.what_if)
    scheme, architecture = Scheme.parse(request.what_if), checkpoint.architecture
    for index in range(1, architecture.block_count + 1):
        require_fitting(architecture.linear_maps(index), scheme, index)


def _require_positions(request: AuditRequest, checkpoint: Checkpoint) -> None:
    length, most = request.calibration.sequence_length, checkpoint.architecture.most_positions
    if most is not None and length > most:
        raise CalibrationError(
            f"Sequences of {length} tokens are asked for; {checkpoint.architecture.name} has a table of {most} "
            "positions and cannot run longer ones.",
            slug="calibration-sequence-too-long",
            remedy=f"Ask for a sequence_length of at most {most}.",
            pointer="/calibration/sequence_length",
        )


def _documents(request: AuditRequest, allowed: AllowList, settings: Settings) -> list[Document]:
    asked = request.calibration
    if asked.uri is None:
        return inline_documents(texts=asked.texts or (), token_ids=asked.token_ids or ())
    files = read_calibration(allowed.resolve(asked.uri, "/calibration/uri"), settings)
    return parse_documents(files, asked.text_field)


def _end_of_text(checkpoint: Checkpoint) -> int | None:
    """The model's end-of-text token, put between documents; the first where a config lists several."""
    value = checkpoint.config.get("eos_token_id")
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) and 0 <= value < checkpoint.architecture.vocab_size else None
