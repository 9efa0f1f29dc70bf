"""Recognises events that differ from an earlier one in nothing but their text.

Nearly all events of a stream are deltas of one block: the same bytes around every piece of text. Once those are known,
only the piece between them has to be decoded. This is exact: the bytes before it end with the quote that opens the
text's JSON string, nothing but braces and spaces (some servers pad) comes after the quote that closes it, and what is
between must be the inside of one JSON string; so the event parses to what the known one parses to, with another text. A
trial with a made-up text proves that it is the string that is meant.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_TRIAL = "\x7f a text that no server sends \x7f"
_MAX_FAILURES = 4
"""Events in a row that cannot become the template before no more are tried: such a server varies every event."""


class DeltaTemplate:
    """The bytes around the text of one block's deltas."""

    __slots__ = ("_braces", "_failures", "_prefix")

    def __init__(self) -> None:
        self._prefix = b""  # none is known
        self._braces = b""
        self._failures = 0

    def clear(self) -> None:
        """Forgets the bytes: what comes is of another block."""
        self._prefix = b""

    def match(self, event: bytes) -> str | None:
        """Returns the text of an event, without the blank line that ends it, None if it is not like the known one."""
        prefix = self._prefix
        if not prefix or not event.startswith(prefix):
            return None
        end = event.rfind(b'"') + 1
        if event[end:].replace(b" ", b"") != self._braces:
            return None
        try:
            text: str = orjson.loads(event[len(prefix) - 1 : end])  # from the opening quote to the closing one
        except orjson.JSONDecodeError:
            return None
        return text

    def learn(self, event: bytes, payload: dict[str, Any], delta: dict[str, Any], key: str) -> None:
        """Takes an event as the new template, if it can be one.

        Args:
            event: The event as it came, without the blank line that ends it.
            payload: What it says. Its text is replaced.
            delta: The object in it that has the text.
            key: The name of the text there.
        """
        if self._failures > _MAX_FAILURES:
            return
        self._failures += 1
        start = event.find(b"{")
        for quoted in (orjson.dumps(delta[key]), json.dumps(delta[key]).encode()):  # the latter is in ASCII only
            before, found, after = event.rpartition(quoted)
            braces = after.replace(b" ", b"")
            if found and braces and not braces.strip(b"}"):
                break
        else:
            return
        delta[key] = _TRIAL
        try:
            proof = orjson.loads(before[start:] + orjson.dumps(_TRIAL) + after)
        except orjson.JSONDecodeError:
            return
        if proof == payload:
            self._prefix, self._braces, self._failures = before + b'"', braces, 0
