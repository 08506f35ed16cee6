"""The weight class of the audited checkpoint: found from its first block, remembered with its content."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace

from peelbound.service.schemas.report import WeightsReport
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.errors import ObjectCorrupt, ObjectMissing, RequestError
from peelbound.workers.keys import canonical, key_of, source_hash
from peelbound.workers.quantisers.conversion import already_low_bit, require_rounded_inputs
from peelbound.workers.quantisers.scheme import Scheme
from peelbound.workers.weight_detection import Finding, detect

log = logging.getLogger(__name__)


class Finder:
    """Finds what the linear maps of one checkpoint are."""

    def __init__(
        self, store: ObjectStore, tenant: str, checkpoint: Checkpoint, asked: str | None, use: Callable[[str], None]
    ) -> None:
        """Bind to a checkpoint and to what the request says of its weights; `use` is told where findings lie."""
        self._store, self._tenant, self._checkpoint, self._use = store, tenant, checkpoint, use
        self._asked = asked

    def find(self, digest: str | None) -> Finding:
        """The finding, remembered where the content is known; else block 1 is read for it.

        Raises:
            RequestError: the request contradicts the weights.
            CheckpointError: the weights cannot be read, or 8-bit activations be had (``weights-activations-…``).
        """
        known = None if digest is None else self._remembered(digest)
        return self._look() if known is None else known

    def keep(self, digest: str, finding: Finding) -> None:
        """Remember the finding, now that the content is known; what is remembered already stays untouched."""
        if self._remembered(digest) is None:
            self._store.put(self._key(digest), canonical(finding.as_json()), media_type="application/json")

    def _key(self, digest: str) -> str:
        asked = {"checkpoint": digest, "asked": self._asked, "sources": source_hash("workers")}
        name = f"tenants/{self._tenant}/results/weights/{key_of(asked)}"
        self._use(name)
        return f"{name}.json"

    def _remembered(self, digest: str) -> Finding | None:
        try:
            return Finding.from_json(json.loads(self._store.get(self._key(digest))))
        except ObjectMissing:
            return None
        except ObjectCorrupt as error:
            log.warning("looking at the weights again: %s", error)
            return None

    def _look(self) -> Finding:
        checkpoint = self._checkpoint
        part = checkpoint.read_part(1)
        asked = None if self._asked is None else Scheme.parse(self._asked)
        maps = checkpoint.architecture.linear_maps(1)
        finding = detect(maps, part.tensors(), part.grids(), checkpoint.encoding, asked)
        for index in range(1, checkpoint.architecture.block_count + 1):
            restricted = finding.weights.restricted(checkpoint.architecture.linear_maps(index))
            require_rounded_inputs(restricted, finding.weights.scheme, "/options/weights")
        return finding


def foretold(checkpoint: Checkpoint, asked: str | None) -> Finding:
    """The weight class of a checkpoint by the smallest linear map of its first block, and what declares it.

    For a plan, which reads a few megabytes and no block. The audit looks at all maps of the block, and may find
    that others lie on no grid.

    Args:
        checkpoint: opened.
        asked: what the request says.

    Raises:
        RequestError: the request contradicts the map.
        CheckpointError: the map cannot be read.
    """
    smallest = min(checkpoint.architecture.linear_maps(1), key=lambda linear: math.prod(linear.shape))
    part = checkpoint.read_tensor(1, smallest.name)
    scheme = None if asked is None else Scheme.parse(asked)
    found = detect([smallest], part.tensors(), part.grids(), checkpoint.encoding, scheme)
    return replace(found, why=f"By {smallest.name} of block 1 alone: {found.why}")


def require_full_precision(what_if: str | None, finding: Finding) -> None:
    """Refuse `what_if` for a model that is low-bit as it is.

    Raises:
        RequestError: slug ``request-what-if-low-bit``.
    """
    if what_if is not None and not finding.weights.scheme.full:
        raise already_low_bit(f"the checkpoint is {finding.weights.scheme} ({finding.why})", what_if)


def require_unquantised(finding: Finding) -> None:
    """Refuse a baseline that is low-bit itself.

    Raises:
        RequestError: slug ``request-baseline-low-bit``.
    """
    if not finding.weights.scheme.full:
        raise RequestError(
            f"The baseline is {finding.weights.scheme} itself ({finding.why})",
            slug="request-baseline-low-bit",
            remedy="Name the checkpoint before quantisation, in full precision, or leave baseline out.",
            pointer="/baseline",
        )


def weights_report(finding: Finding, checkpoint: Checkpoint) -> WeightsReport:
    """What the report says of the weights."""
    parameters = finding.parameters * checkpoint.architecture.block_count
    return WeightsReport(
        scheme=str(finding.weights.scheme),
        latent=finding.weights.latent,
        certainty=finding.certainty,
        why=finding.why,
        share=min(1.0, parameters / max(1, checkpoint.parameters)),
        full_precision_maps=list(finding.weights.full_maps),
    )
