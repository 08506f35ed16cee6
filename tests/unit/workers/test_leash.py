"""A worker ends itself when its controller has fallen silent."""

import subprocess
import sys
import threading
import time

from peelbound.workers.leash import Leash
from tests.waiting import DEADLINE_SECONDS

PROCESS = "import threading; from peelbound.workers.leash import Leash; Leash(0.1).start(); threading.Event().wait()"


def test_a_process_that_nobody_speaks_to_ends() -> None:
    assert subprocess.run([sys.executable, "-P", "-c", PROCESS], check=False, timeout=DEADLINE_SECONDS).returncode == 1


def test_who_is_heard_holds_it() -> None:
    ended, began = threading.Event(), time.monotonic()
    leash = Leash(0.2, ended.set)
    leash.start()
    while time.monotonic() < began + 0.5:
        leash.heard()
    assert ended.wait(DEADLINE_SECONDS)
    assert time.monotonic() >= began + 0.6
