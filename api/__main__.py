"""`python -m peelbound.api`: one API replica with the settings of the environment, until SIGTERM."""

import sys

import uvicorn

from peelbound.api.app import create_app
from peelbound.api.draining import Draining, Server
from peelbound.service.starting import settings_or_exit

LAST_SECONDS = 10
"""What requests in hand get to end once no new ones are taken."""


def main() -> int:
    """Serve until told to stop."""
    settings = settings_or_exit()
    draining = Draining()
    server = Server(
        uvicorn.Config(
            create_app(settings, draining),
            host=settings.host,
            port=settings.port,
            lifespan="on",
            log_config=None,  # ours
            access_log=False,  # ours, without the query
            timeout_graceful_shutdown=LAST_SECONDS,
        ),
        draining,
        settings.drain_seconds,
    )
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
