"""What holds for all tests."""

import gc


def pytest_configure() -> None:
    """Rest the collector of garbage while thousands of tests and what they need are imported …"""
    gc.disable()


def pytest_collection_finish() -> None:
    """… and let it pass over all that from then on: it would look through millions of objects again and again."""
    gc.enable()
    gc.collect()
    gc.freeze()
