"""Time as the core sees it, in one place, so that tests can set it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since the Unix epoch."""

system_clock: Clock = time.time
