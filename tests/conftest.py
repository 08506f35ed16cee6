"""What holds for all tests."""

import gc

import pytest


def pytest_configure() -> None:
    """Rest the collector of garbage while thousands of tests, and all that they need, are imported."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """From now on let it pass over what was imported, hundreds of thousands of objects. (Every process comes here; only
    those that run tests finish collecting them.)"""
    gc.enable()
    gc.collect()
    gc.freeze()
