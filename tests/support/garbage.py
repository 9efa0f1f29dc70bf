"""What a test leaves to Python's cycle collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """Keeps whatever the collector finds; nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
