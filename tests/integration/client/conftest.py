"""Fixtures of the client's tests."""

from tests.integration.client.harness import service

__all__ = ["service"]
