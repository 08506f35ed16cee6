"""Fixtures of the tests of what is deployed."""

from tests.unit.api.harness import api, settings

__all__ = ["api", "settings"]
