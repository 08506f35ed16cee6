"""Run a module for as long as the parent lives: `python -P -m peelbound.leash MODULE`, with a pipe as standard input.

The parent holds the pipe's other end and writes nothing. However the parent ends, also by SIGKILL, the pipe is closed;
the module then gets SIGTERM, and after the grace period SIGKILL.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 20.0


def _end_with_parent() -> None:
    # The raw descriptor: a thread blocked in sys.stdin would hold its lock while the interpreter shuts down.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="leash", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
