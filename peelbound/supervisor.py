"""A controller as a child of this process: started again when it ends, and stopped in order in the end."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peelbound.local import PRIVATE_UMASK, private_files
from peelbound.service.settings import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 15.0
"""What a controller gets to hand its audit back before it is killed."""
LOG_BYTES = 10_000_000
"""A controller's log larger than this is set aside when a service starts."""
STABLE_SECONDS = 60.0
"""A controller that lived this long before it ended is started again without delay."""
PAUSE_SECONDS = 0.5
"""The pause before that; it doubles with each controller that does not live so long, up to `LONGEST_PAUSE_SECONDS`."""
LONGEST_PAUSE_SECONDS = 30.0
ENDS = 3
"""So many controllers in a row that did not live that long are enough to say that none will."""
SAID_LINES = 5
"""Of what the last one said, the end that is repeated, of at most `SAID_BYTES`."""
SAID_BYTES = 2000

GiveUp = Callable[[str, threading.Event], None]
"""Does what is to be done where no controller stays up: is told why, and sees by the event when all is to end."""


@contextmanager
def supervised(settings: Settings, command: list[str], log_path: Path, give_up: GiveUp | None = None) -> Iterator[None]:
    """Keep one controller alive until the context is left; one that keeps ending is started ever more slowly.

    Args:
        settings: the service's; the controller gets them and no others.
        command: the controller.
        log_path: where it writes.
        give_up: called in place of the next start once `ENDS` controllers in a row ended soon; None: never.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.exists() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_suffix(".old.log"))
    stop = threading.Event()
    with private_files():
        log_path.touch()
    thread = threading.Thread(target=_supervise, args=(settings, command, log_path, give_up, stop), name="supervisor")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _supervise(
    settings: Settings, command: list[str], log_path: Path, give_up: GiveUp | None, stop: threading.Event
) -> None:
    soon = 0
    # What the settings leave at its default must not come from our own environment instead.
    configured = {f"PEELBOUND_{name.upper()}" for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name.upper() not in configured}
    while not stop.is_set():
        began = time.monotonic()
        with log_path.open("ab") as output:
            said_from = output.tell()
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                cwd=settings.state_dir,
                env=environment | settings.environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                umask=PRIVATE_UMASK,
                start_new_session=True,  # Ctrl-C is for us; the controller is told in order
            )
        while process.poll() is None and not stop.wait(0.1):
            pass
        if stop.is_set():
            _stop(process)
            return
        assert process.stdin is not None
        process.stdin.close()
        soon = 0 if time.monotonic() - began > STABLE_SECONDS else soon + 1
        if give_up is not None and soon == ENDS:
            log.warning("the controller ended with status %s and is given up; see %s", process.returncode, log_path)
            give_up(_why(process.returncode, log_path, said_from), stop)
            return
        log.warning("the controller ended with status %s and is started again; see %s", process.returncode, log_path)
        stop.wait(min(PAUSE_SECONDS * 2 ** min(soon, 16), LONGEST_PAUSE_SECONDS))


def _why(status: int, log_path: Path, said_from: int) -> str:
    """Why no controller stays up, in words and in the last one's own."""
    with log_path.open("rb") as file:
        file.seek(said_from)
        lines = file.read()[-SAID_BYTES:].decode(errors="replace").strip().splitlines()[-SAID_LINES:]
    last = "\n".join(["The last one said:", *lines]) if lines else "It said nothing."
    return (
        f"The controller ended {ENDS} times in a row soon after its start, the last time with status {status}. {last}"
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
