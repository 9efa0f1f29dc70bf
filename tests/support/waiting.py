"""Waiting until something holds, or nothing moves any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which a test has failed: nothing is expected to take that long."""


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Returns once a condition holds.

    Raises:
        TimeoutError: If that takes too long.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def at_rest(value: Callable[[], T], seconds: float = 0.3) -> T:
    """Returns a value once it has not changed for so many seconds.

    Raises:
        TimeoutError: If it goes on changing.
    """
    async with asyncio.timeout(PATIENCE):
        found = value()
        while True:
            await asyncio.sleep(seconds)
            before, found = found, value()
            if found == before:
                return found
