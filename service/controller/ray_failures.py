"""What a failure of Ray is called, and what is said to do about it: our own typed errors in the place of Ray's."""

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from peelbound.service.controller.cluster import RAY_REMEDY, RayFailed
from peelbound.workers.errors import InfrastructureError, OutOfMemory, PeelboundError, WorkerLost

LOST_REMEDY = (
    "See the kernel's log on its node: if it was killed for lack of memory, lower PEELBOUND_WORKERS, options.grain or "
    "calibration.sequence_length. What is solved is not solved again."
)


def typed(error: RayError, method: str) -> PeelboundError:
    """Our own error behind one of Ray's, met during `method`."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, PeelboundError):
            return cause
        if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
            return OutOfMemory(f"{method}: {cause}", remedy="Lower options.grain or calibration.sequence_length.")
        return InfrastructureError(
            f"{method} failed on a worker: {type(cause).__name__}: {cause}",
            slug="worker-error",
            remedy="Report it with the controller's log.",
        )
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory(
            f"{method}: the node ran out of memory.", remedy="Lower options.grain or give the node more memory."
        )
    if isinstance(error, ActorDiedError | ActorUnavailableError | ObjectLostError):
        return WorkerLost(f"A worker died during {method}.", remedy=LOST_REMEDY)
    return RayFailed(f"Ray failed during {method}: {error}", remedy=RAY_REMEDY)
