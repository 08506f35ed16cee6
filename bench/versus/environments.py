"""An environment of its own for each competitor, made once and kept below `bench/out/`."""

import hashlib
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
INSTALL_SECONDS = 1800


@dataclass(frozen=True)
class Environment:
    """Where a competitor's Python is, or why there is none."""

    python: Path | None
    error: str | None


def environment(requirements: Path, directory: Path) -> Environment:
    """Make the environment of a requirements file, unless it is there with the same pins.

    Args:
        requirements: pinned with all that they bring.
        directory: the environments' folder.
    """
    home = directory / requirements.stem
    python, stamp = home / "bin" / "python", home / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return Environment(python, None)
    try:
        venv.create(home, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Environment(None, f"{type(error).__name__}: {error}")
    if done.returncode:
        return Environment(None, last_line(done.stderr))
    stamp.write_text(wanted)
    return Environment(python, None)


def here() -> Environment:
    """The environment that runs the bench: Peelbound's own."""
    return Environment(Path(sys.executable), None)


def last_line(text: str) -> str:
    """What a failed program says last, its errors before its notices."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1][:300]
