"""How searches compare texts: without regard to case and to how a character is composed."""

from __future__ import annotations

import unicodedata


def fold(text: str) -> str:
    """Returns a text as searches compare it. It has no NUL, which PostgreSQL cannot keep."""
    if text.isascii():
        return text.lower().replace("\0", " ")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("\0", " ")


def words_of(text: str) -> tuple[str, ...]:
    """Returns the different words of a query, as `fold` returns them."""
    return tuple(dict.fromkeys(fold(text).split()))
