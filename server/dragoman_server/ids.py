"""Opaque, prefixed, time-ordered ids."""

from __future__ import annotations

import os
import time

_last = 0


def uuid7() -> str:
    """Returns a UUIDv7 (RFC 9562) as 32 hex digits: 48 bits of milliseconds, then random bits.

    Those of one process are strictly increasing: within a millisecond, and while the clock stands still or is set back,
    the next one is the last one plus 1.
    """
    global _last
    milliseconds = time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF
    if milliseconds <= _last >> 80:
        _last += 1
    else:
        value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
        value = value & ~(0xF << 76) | 0x7 << 76  # version
        _last = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return hex(_last)[2:].zfill(32)  # a fifth of what a format takes


def new_id(prefix: str) -> str:
    """Returns a new id such as `run_0192f0c1…`: ids of one prefix sort by their time of creation."""
    return f"{prefix}_{uuid7()}"
