"""Fixtures of the API's tests."""

from tests.unit.api.harness import api, settings

__all__ = ["api", "settings"]
