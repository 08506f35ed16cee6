"""When collections take place: a thread beside a controller's work, one tenant at a time, on whichever is free."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Engine

from peelbound.service.database.audits import Audits
from peelbound.service.database.retention import Retention
from peelbound.service.database.tenants import Tenants
from peelbound.service.retention.collector import Collector
from peelbound.service.retention.own_audits import spared
from peelbound.service.settings import Settings
from peelbound.service.storage.base import ObjectStore
from peelbound.workers.errors import PeelboundError

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
JOIN_SECONDS = 2.0


def make_collector(settings: Settings, engine: Engine, store: ObjectStore) -> Collector:
    """A collector as the settings have it."""
    return Collector(
        Retention(engine),
        Audits(engine),
        Tenants(engine),
        store,
        keep_seconds=settings.audit_keep_seconds,
        grace=timedelta(seconds=settings.result_grace_seconds),
    )


def _run(settings: Settings, engine: Engine, store: ObjectStore, stop: threading.Event) -> None:
    while not stop.wait(LOOK_SECONDS):
        try:
            retention = Retention(engine)
            collect = spared(settings.state_dir, make_collector(settings, engine, store).collect)
            every = timedelta(seconds=settings.collect_seconds)
            collected = False
            while not stop.is_set() and (tenant := retention.claim(every)) is not None:
                log.info("collected %s: %s", tenant, collect(tenant))
                collected = True
            if collected:
                store.clean()
        except PeelboundError as error:
            log.warning("the collection broke off and is tried again later: %s", error)
        except Exception:  # a thread that ended unheard would let storage grow for ever
            log.exception("the collection broke off, for a reason that was not expected")


@contextmanager
def collecting(settings: Settings, engine: Engine, store: ObjectStore) -> Iterator[None]:
    """Collect in the background until the context is left, every `collect_seconds`; never where that is 0."""
    if not settings.collect_seconds:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(settings, engine, store, stop), name="collector", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_SECONDS)
