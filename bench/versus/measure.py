"""Time and memory of a program with all the processes that it starts."""

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    returncode: int
    seconds: float
    """From start to end: imports and loading included."""
    peak_rss: int
    """Largest sum of resident bytes over the process tree; pages that processes share count in each."""
    peak_pss: int
    """The same with a shared page divided among those that share it; sampled ten times more rarely. 0: not known."""
    output: str
    """Its standard error and output, at the end."""


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _rss(tree: list[psutil.Process]) -> int:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _pss(tree: list[psutil.Process]) -> int:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.Error, AttributeError):
            total += process.memory_full_info().pss
    return total


def run(command: list[str], log: Path, timeout: float = 3600.0) -> Cost:
    """Run a program on one thread and without network, and watch it.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds; it has been killed.
    """
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w+", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **quiet})
        root = psutil.Process(process.pid)
        rss = pss = samples = 0
        while process.poll() is None:
            tree = _tree(root)
            rss = max(rss, _rss(tree))
            if samples % 10 == 0:
                pss = max(pss, _pss(tree))
            samples += 1
            if time.perf_counter() - start > timeout:
                for one in reversed(tree):
                    with contextlib.suppress(psutil.Error):
                        one.kill()
                process.wait()
                raise subprocess.TimeoutExpired(command, timeout)
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
    return Cost(process.returncode, seconds, rss, pss, log.read_text(encoding="utf-8", errors="replace")[-4000:])
