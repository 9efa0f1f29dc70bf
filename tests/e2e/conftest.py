"""Fixtures of all end-to-end tests."""

from tests.support.server import server

__all__ = ["server"]
