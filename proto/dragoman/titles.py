"""Titles made of what was said: the same on both sides of the contract, so that an answer can tell one ahead."""

from __future__ import annotations

import unicodedata

MAX_MADE_CHARS = 60
"""Longest title that is made."""


def title_from(text: str) -> str:
    """Returns the beginning of a text as a title: one line, cut between words if it must be cut."""
    line = " ".join("".join(" " if _is_control(character) else character for character in text[:1000]).split())
    if len(line) <= MAX_MADE_CHARS:
        return line
    cut = line[:MAX_MADE_CHARS]  # one character is for the dots
    words = cut.rpartition(" ")[0]
    return (words or cut[:-1]).rstrip(" ,;:.-") + "…"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
