"""`peelbound up`."""

import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import click

from peelbound.cli.failures import reporting
from peelbound.cli.output import json_option, said
from peelbound.cli.places import Directory, Prefix
from peelbound.endpoint import is_loopback
from peelbound.extras import require_server_extra
from peelbound.local import default_state_dir


@click.command("up")
@click.option("--state-dir", type=Directory(), help="Database, results and tokens.")
@click.option("--host", help="Address to listen on  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one  [default: 8734]")
@click.option("--allowed-host", multiple=True, metavar="NAME", help="A further name that the service is called by.")
@click.option(
    "--allow", type=Prefix(), multiple=True, metavar="PREFIX", help="Directory or URI prefix that audits may read."
)
@click.option("--workers", type=click.IntRange(1), help="Processes that solve  [default: 2]")
@json_option
@reporting
def command(
    state_dir: Path | None,
    host: str | None,
    port: int | None,
    allowed_host: tuple[str, ...],
    allow: tuple[str, ...],
    workers: int | None,
    as_json: bool,
) -> None:
    """Run the whole service on this machine until SIGTERM or Ctrl-C."""
    require_server_extra()
    from pydantic import ValidationError

    from peelbound.embedded import Running, embedded
    from peelbound.service.logs import configure_logs
    from peelbound.service.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    try:
        configured = Settings()
        settings = Settings(
            **{name: value for name, value in given.items() if value is not None},
            state_dir=(state_dir or default_state_dir()).absolute(),
            allow=[*configured.allow, *allow],
            allowed_hosts=[*configured.allowed_hosts, *allowed_host],
        )
    except ValidationError as error:
        raise click.UsageError(said(error)) from None
    if not is_loopback(settings.host) and all(map(is_loopback, settings.allowed_hosts)):
        raise click.UsageError(
            f"{settings.host} can be reached from other machines: say by which name, with --allowed-host."
        )
    configure_logs(settings.log_format, logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def announce(running: Running) -> None:
        if as_json:
            token_file = str(settings.state_dir / "token")
            click.echo(json.dumps({"url": running.url, "link": running.link, "token_file": token_file}))
        else:
            _print_facts(running.link, running.url, settings.state_dir, settings.allow)

    with embedded(settings) as running:
        announce(running)
        stop.wait()


def _print_facts(link: str, url: str, state_dir: Path, allow: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.rule("Peelbound is up", align="left")
    for name, value in (
        ("open", link),
        ("API", url),
        ("token", str(state_dir / "token")),
        ("state", str(state_dir)),
        *(("may read", prefix) for prefix in allow or ["nothing yet: give --allow PREFIX"]),
    ):
        # Never wrapped: a link that is broken over two lines cannot be followed.
        console.print(Text.assemble((f"{name:>8}  ", "bold"), value), soft_wrap=True)
    console.rule()
