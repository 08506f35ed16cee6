"""The Ray that a controller works on: one of its own on this machine, or a cluster that it shares with others.

A shared cluster is divided evenly: first among the tenants that have audits at work, then among each tenant's audits.
"""

import atexit
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping

import ray
from ray._private import ray_constants
from ray.exceptions import AuthenticationError

from peelbound.service.controller.ray_head import await_head
from peelbound.service.settings import Settings
from peelbound.workers.errors import InfrastructureError
from peelbound.workers.threads import THREADS

log = logging.getLogger(__name__)

WORKER_CPUS = THREADS
"""CPUs of each worker: as many as it computes in threads, so that Ray never puts more of them on a node than it has."""

RAY_REMEDY = "The next attempt starts Ray afresh. If this goes on, look at its logs and at PEELBOUND_RAY_ADDRESS."


class RayFailed(InfrastructureError):
    """Ray itself failed, or does not start the workers: it is to be started afresh."""

    slug = "ray-error"
    title = "The cluster failed"


def start_ray(settings: Settings, check: Callable[[], None] = lambda: None) -> None:
    """Connect to the cluster at `ray_address`, or start a Ray of our own on this machine, bound to loopback.

    Args:
        settings: the service's.
        check: called while a cluster that does not answer is asked again; may raise to end the wait.

    Raises:
        RayFailed: no cluster answers within `worker_start_seconds`, it refuses the token, or a Ray of our own does not
            start.
    """
    if settings.ray_address not in (None, "auto"):
        failure = await_head(settings.ray_address, settings.worker_start_seconds, check)
        if failure is not None:
            raise RayFailed(failure, remedy=RAY_REMEDY)
    try:
        _start_ray(settings)
    except Exception as error:  # `ray.init` raises all sorts, a plain Exception when a node is slow to start
        raise _not_started(settings, error) from error


def _start_ray(settings: Settings) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # they are those of abandoned tasks
    # Ray puts the working directory first on its workers' import path, where a user's own peelbound.py would hide us,
    # and its processes stay in it: start it where there is nothing.
    nothing = tempfile.mkdtemp(prefix="peelbound-ray-")
    atexit.register(shutil.rmtree, nothing, ignore_errors=True)
    # Wherever clusters are possible Ray takes 127.0.0.1 for the machine's own address, and listens on all it has.
    ray_constants.ENABLE_RAY_CLUSTER = settings.ray_address is not None and not _is_loopback(settings.ray_address)
    with contextlib.chdir(nothing), _signals_kept():
        if settings.ray_address:
            if os.environ.get("RAY_AUTH_MODE") != "token":
                log.warning("RAY_AUTH_MODE is not token: whoever reaches the cluster's ports runs code on it")
            # Or it tries again for 14 minutes, deaf to signals, should the head have ended since it was asked.
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
            ray.init(address=settings.ray_address, log_to_driver=False)
            return
        # Ray would start a process for each CPU in advance; an actor, whose environment differs, can use none.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        ray.init(
            address="local",  # or Ray joins whatever cluster it finds on this machine
            num_cpus=WORKER_CPUS * own_workers(settings),
            object_store_memory=settings.ray_object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )


def own_workers(settings: Settings) -> int:
    """How many workers a Ray of our own has: those that are set, but never more than this machine's cores together."""
    cores = settings.cores or _cores()
    return max(1, min(settings.workers, cores // WORKER_CPUS))


def _cores() -> int:
    """Cores that this process may run on; all of the machine's where the system cannot tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself and would exit at once; a controller first hands its audit back."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not handler:  # only the main thread's handlers are Ray's to take
            signal.signal(signal.SIGTERM, handler)


def _not_started(settings: Settings, error: Exception) -> RayFailed:
    if not settings.ray_address:
        return RayFailed(f"Ray does not start: {error}", remedy=RAY_REMEDY)
    # While it connects, Ray hands the reason on as the text of a traceback only.
    if isinstance(error, AuthenticationError) or AuthenticationError.__name__ in str(error.__cause__):
        return RayFailed(
            f"The Ray cluster at {settings.ray_address} takes no driver without its token.",
            slug="ray-token-refused",
            remedy="Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the token of its nodes.",
        )
    return RayFailed(f"No Ray cluster answers at {settings.ray_address}: {error}", remedy=RAY_REMEDY)


def capacity(settings: Settings) -> int:
    """How many workers the cluster has room for in all, whoever has them now, or will have once it has grown."""
    return max(settings.cluster_workers or 0, room_now(settings))


def room_now(settings: Settings) -> int:
    """How many workers the nodes that are alive have room for, whoever has them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return sum(fitting(resources, settings.worker_gpus) for resources in nodes)


def fitting(resources: Mapping[str, float], worker_gpus: float) -> int:
    """How many workers a node with these resources holds. Ray packs fractions of a GPU into single devices."""
    fitting = int(resources.get("CPU", 0) // WORKER_CPUS)
    if not worker_gpus:
        return fitting
    gpus = resources.get("GPU", 0)
    return min(fitting, int(gpus // worker_gpus if worker_gpus >= 1 else gpus * (1 // worker_gpus)))


def fair_share(room: int, at_work: Mapping[str, int], tenant: str, most: int) -> int:
    """How many workers one audit of a tenant may have, at least one.

    Args:
        room: how many workers the cluster holds.
        at_work: audits at work by tenant, this one among them.
        tenant: whose audit it is.
        most: more than this it cannot use.
    """
    shares = len({*at_work, tenant}) * max(at_work.get(tenant, 0), 1)
    return max(1, min(most, -(-room // shares)))
