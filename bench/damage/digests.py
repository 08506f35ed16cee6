"""Digests of what kept figures depend on: files, and the code that measures."""

import hashlib
import json
from functools import cache
from pathlib import Path
from types import ModuleType

from bench.damage import subject
from peelbound.service import plan
from peelbound.service.schemas import request
from peelbound.workers.keys import Json, key_of, source_hash


def name_of(depends: Json) -> str:
    """What a file of figures is named by, of all that they depend on."""
    return key_of(depends)[:12]


def digest(path: Path) -> str:
    """Of a file's content, or of the names and contents of a directory's files."""
    if path.is_dir():
        return json.dumps([[file.name, digest(file)] for file in sorted(path.iterdir()) if file.is_file()])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code(*modules: ModuleType) -> str:
    """Of the sources that measure: the modules, the subject, the workers, and what makes an audit's plan of a request.

    Read once in a process, which goes on with the code that it has loaded when a file is changed. The settings of a
    plan are not read from a plan, as that takes the checkpoint and its texts; they follow from these and the model.
    """
    files = [Path(str(module.__file__)) for module in (*modules, subject, plan, request)]
    return key_of([source_hash("workers"), *(digest(file) for file in files)])
