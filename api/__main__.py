"""`python -m peelbound.api`: one API replica with the settings of the environment, until SIGTERM."""

import sys

import uvicorn
from pydantic import ValidationError

from peelbound.api.app import create_app
from peelbound.api.draining import Draining, Server
from peelbound.service.logs import configure_logs
from peelbound.service.settings import Settings

LAST_SECONDS = 10
"""What requests in hand get to end once no new ones are taken."""


def main() -> int:
    """Serve until told to stop."""
    try:
        settings = Settings()
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logs(settings.log_format)
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
