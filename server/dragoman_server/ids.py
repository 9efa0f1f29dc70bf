"""Opaque, prefixed, time-ordered ids."""

from __future__ import annotations

import os
import time
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HALVES = Struct(">QQ")
_RANDOM = Struct(">HQ")
_AT_ONCE = 64
"""Ids whose random bits are fetched at once: each fetch is a call of the system."""

_high = _low = 0
"""The two halves of the last id."""

_random: Iterator[tuple[int, ...]] = iter(())


def _fetch_random() -> tuple[int, ...]:
    global _random
    _random = _RANDOM.iter_unpack(os.urandom(_RANDOM.size * _AT_ONCE))
    return next(_random)


def _forget_random() -> None:
    global _random
    _random = iter(())


os.register_at_fork(after_in_child=_forget_random)  # lest parent and child make the same ids


def uuid7() -> str:
    """Returns a UUIDv7 (RFC 9562) as 32 hex digits: 48 bits of milliseconds, then random bits.

    Those of one process are strictly increasing: within a millisecond, and while the clock stands still or is set back,
    the next one is the last one plus 1.
    """
    global _high, _low
    milliseconds = time.time_ns() // 1_000_000
    if milliseconds <= _high >> 16:
        _low += 1
    else:
        more, most = next(_random, None) or _fetch_random()
        _high = milliseconds << 16 | 0x7000 | more & 0xFFF  # version 7
        _low = most & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000  # the variant
    return _HALVES.pack(_high, _low).hex()  # a third of what a format takes


def new_id(prefix: str) -> str:
    """Returns a new id such as `run_0192f0c1…`: ids of one prefix sort by their time of creation."""
    return f"{prefix}_{uuid7()}"
