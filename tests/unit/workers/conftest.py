import pytest

from tests.numerics import Subject, random_subject, trained_subject


@pytest.fixture(scope="session")
def llama() -> Subject:
    """A random llama; read only."""
    return random_subject("llama")


@pytest.fixture(scope="session")
def trained() -> Subject:
    """A small model that has learned something; read only."""
    return trained_subject()
