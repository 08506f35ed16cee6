"""`python -m peelbound.service.controller`: run a controller with the settings of the environment until SIGTERM."""

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from peelbound.service.controller import metrics
from peelbound.service.controller.pulse import Stopping
from peelbound.service.database.schema import open_database
from peelbound.service.retention.collecting import collecting
from peelbound.service.starting import settings_or_exit
from peelbound.service.storage.open import open_store
from peelbound.service.tracing import tracing
from peelbound.service.uris import AllowList
from peelbound.service.webhooks.deliverer import delivering
from peelbound.workers.errors import PeelboundError
from peelbound.workers.importing import large_imports


def _pausing(stop: threading.Event) -> Callable[[float], None]:
    """A sleep that ends with `Stopping` when the process is told to stop."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopping("The controller is stopping.")

    return pause


def main() -> int:
    """Run until SIGTERM or SIGINT; the audit in hand is handed back."""
    settings = settings_or_exit()
    stop = threading.Event()

    def told(number: int, _: FrameType | None) -> None:
        logging.getLogger(__name__).info("signal %d: stopping", number)
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    try:
        AllowList.check(settings)
        wait = settings.database_wait_seconds
        engine = open_database(settings.resolved_database_url, wait_seconds=wait, pause=_pausing(stop))
        store = open_store(settings)
        with (
            tracing(settings, "peelbound-controller"),
            metrics.served(settings),
            delivering(settings, engine),
            collecting(settings, engine, store),
        ):
            # Torch, Ray and what they bring take seconds: wrong settings and SIGTERM are not to wait for them.
            with large_imports():
                from peelbound.service.controller.loop import Controller

            Controller(settings, engine, store, stop).run()
    except Stopping:
        return 0
    except PeelboundError as error:
        sys.stderr.write(f"{error.title}: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
