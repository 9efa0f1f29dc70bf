"""Adds up what calls of models consumed."""

from __future__ import annotations

from typing import Any

from dragoman.v1.usage_pb2 import Usage

MOST_TOKENS = 2**40
"""Counts from here on are nonsense and not believed. The sums of many others still have room in 64 bits."""


def sum_of_calls(usage: Usage, before: Usage | None) -> Usage:
    """Returns what a call and those before it consumed together, prompts included.

    Args:
        usage: That of the call.
        before: That of the calls before it; None if there were none, or nothing is known of them.
    """
    if before is None:
        return usage
    total = Usage()
    total.CopyFrom(usage)
    _add(total, before)
    return total


def _add(total: Any, more: Any) -> None:
    """Adds all counts; of what is no count, the total keeps its own."""
    for descriptor, value in more.ListFields():
        name = descriptor.name
        if descriptor.message_type is not None:
            _add(getattr(total, name), value)
        elif isinstance(value, int) and not isinstance(value, bool):
            setattr(total, name, getattr(total, name) + value)
        else:
            setattr(total, name, getattr(total, name) or value)
