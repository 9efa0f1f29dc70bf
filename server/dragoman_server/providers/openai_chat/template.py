"""Recognises chunks that differ from an earlier one in nothing but their text.

Most servers send the same bytes around every piece of text. Once those are known, only the piece between them has to be
decoded. This is exact: the bytes before it end with the quote that opens the text's JSON string, the bytes after it
begin with the one that closes it, and what is between must be the inside of one JSON string; so the chunk parses to
what the known one parses to, with another text. A trial with a made-up text proves that it is the string that is meant.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_BEFORE, _AFTER = b"data: ", b"\n\n"
"""What makes an event of a chunk."""

_TRIAL = "\x7f a text that no server sends \x7f"
_MAX_FAILURES = 4
"""Chunks in a row that may miss their template before no new one is tried: such a server varies every chunk."""


class TextTemplate:
    """The bytes around the text of one stream's chunks."""

    __slots__ = ("_event_prefix", "_event_suffix", "_failures", "_prefix", "_suffix")

    def __init__(self) -> None:
        self._prefix = b""  # none is known
        self._suffix = b""
        self._event_prefix = b""
        self._event_suffix = b""
        self._failures = 0

    def match_event(self, data: bytes) -> str | None:
        """Returns the text of bytes that are one whole event with such a chunk, None for any other bytes.

        The bytes must begin where an event begins. This decodes neither the event nor the chunk.
        """
        prefix, suffix = self._event_prefix, self._event_suffix
        if prefix and data.startswith(prefix) and data.endswith(suffix) and data.find(b"\n") == len(data) - 2:
            try:
                text: str = orjson.loads(data[len(prefix) - 1 : len(data) - len(suffix) + 1])
            except orjson.JSONDecodeError:
                return None
            return text
        return None

    def match(self, frame: bytes) -> str | None:
        """Returns the text of a chunk with the known bytes around it, None for any other chunk."""
        prefix, suffix = self._prefix, self._suffix
        if prefix and frame.startswith(prefix) and frame.endswith(suffix):
            try:
                # From the opening quote to the closing one: text cannot end the string early and still be one value.
                text: str = orjson.loads(frame[len(prefix) - 1 : len(frame) - len(suffix) + 1])
            except orjson.JSONDecodeError:
                return None
            self._failures = 0
            return text
        return None

    def learn(self, frame: bytes, chunk: dict[str, Any]) -> None:
        """Takes a chunk whose only delta is a text as the new template, if it can be one."""
        if self._failures > _MAX_FAILURES:
            return
        self._failures += 1
        delta = chunk["choices"][0]["delta"]
        text = delta["content"]
        before, quoted, after = frame.partition(orjson.dumps(text))
        if not quoted:  # written in ASCII only
            before, quoted, after = frame.partition(json.dumps(text).encode())
        if not quoted:
            return
        prefix, suffix = before + b'"', b'"' + after
        delta["content"] = _TRIAL
        try:
            proof = orjson.loads(prefix + _TRIAL.encode() + suffix)
        except orjson.JSONDecodeError:
            return
        if proof == chunk:
            self._prefix, self._suffix = prefix, suffix
            self._event_prefix, self._event_suffix = _BEFORE + prefix, suffix + _AFTER
