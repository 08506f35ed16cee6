"""Entry point of the command line: names the commands and imports none of them."""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from peelbound import __version__

COMMANDS = {
    "up": "Run the whole service on this machine.",
    "audit": "Audit a checkpoint and judge the verdict.",
    "plan": "Say what an audit would do and cost, without running it.",
    "list": "List audits.",
    "show": "Show one audit.",
    "wait": "Wait for an audit and judge the verdict.",
    "cancel": "Cancel an audit.",
    "delete": "Delete an ended audit with its report.",
    "report": "Print or save a report.",
    "migrate": "Bring a service's database to the schema of this version.",
    "webhook": "Have endpoints told when audits end.",
    "token": "Make, list and revoke the tokens of a service.",
    "tenant": "Say how long a tenant's audits are kept.",
    "gc": "Collect storage that nothing needs any more.",
    "log": "Say who changed what in a service.",
    "doctor": "Say what is wrong with a service's settings and surroundings.",
}

HELP = """Audit a transformer checkpoint: peel it block by block and see what training left on the table.

\b
Exit codes:
  0  done; for audit and wait: the verdict passes the --fail-on rule
  1  the verdict does not pass; for doctor: something is wrong
  2  wrong usage
  3  the audit failed or was cancelled, the service refused or could not be reached, or nobody read the output

\b
Environment:
  PEELBOUND_URL        the service (default: the one that `peelbound up` runs here)
  PEELBOUND_TOKEN      the bearer token (default, for the service that runs here: its own)
  PEELBOUND_STATE_DIR  where `peelbound up` keeps its state
"""


@contextmanager
def _one_is_a_verdicts() -> Iterator[None]:
    """At an interrupt, and where nobody reads standard output any more, click and rich would end with 1."""
    try:
        yield
    except KeyboardInterrupt:  # before the command began; `reporting` sees later ones
        raise SystemExit(130) from None
    except BrokenPipeError:
        _end_unread()
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        _end_unread()


def _end_unread() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else what is flushed at exit fails again
    raise SystemExit(3)


class LazyGroup(click.Group):
    """A group that knows its commands by name; importing them all would make `--help` slow."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the words; `--help` and `--version` print here."""
        with _one_is_a_verdicts():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_is_a_verdicts():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"peelbound.cli.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands from their names alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="peelbound")
def cli(**_: Any) -> None:
    """Audit transformer checkpoints."""


def main() -> None:
    """Run the command line."""
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # an uncaught error exits with 1, and 1 says that the verdict did not pass
        traceback.print_exc()
        sys.exit(3)
