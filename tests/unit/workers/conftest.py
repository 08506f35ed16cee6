from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peelbound.service.storage.directory import DirectoryStore
from peelbound.workers.actor import Worker
from tests.numerics import GRAIN, Subject, random_subject, trained_subject
from tests.unit.workers.harness import Acting, opened


@pytest.fixture(scope="session")
def llama() -> Subject:
    """A random llama; read only."""
    return random_subject("llama")


@pytest.fixture(scope="session")
def trained() -> Subject:
    """A small model that has learned something; read only."""
    return trained_subject()


@pytest.fixture
def acting(tmp_path: Path) -> Iterator[Acting]:
    """A worker as it is inside its process, in this one."""
    threads = torch.get_num_threads()
    subject = random_subject("llama")
    subject.whole.save_pretrained(tmp_path / "model")
    worker = Worker(DirectoryStore(tmp_path / "store"), "cpu", GRAIN)
    yield Acting(worker, subject, opened(tmp_path, "model"), tmp_path)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
