"""Fixtures of the client's tests."""

from tests.integration.client.harness import draining, service

__all__ = ["draining", "service"]
