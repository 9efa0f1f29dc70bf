"""The secrets of API keys: how they are made, shown and stored.

A secret is stored as its SHA-256. A slow hash would protect secrets that can be guessed; 256 random bits cannot, and a
slow hash on every call would hand anyone a way to exhaust the server. For the same reason a key is found by its hash:
how long that takes tells nothing about the secret, because nobody can choose a hash.
"""

from __future__ import annotations

import hashlib
import secrets

from dragoman.credentials import looks_like_token

MAX_SECRET_CHARS = 512
"""Longer credentials are refused unread."""

MAX_TOKEN_CHARS = 8 * 1024
"""Longer tokens are refused unread."""

MIN_CHOSEN_CHARS = 16
"""Fewest characters of a secret that an operator chooses. It should be random too."""

_PREFIX_CHARS = 10


def new_secret() -> str:
    """Returns a new secret: `dgm_` and 256 random bits."""
    return f"dgm_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> bytes:
    """Returns what is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def shown_prefix(secret: str) -> str:
    """Returns the first characters of a secret, few enough to give nothing away."""
    return secret[: min(_PREFIX_CHARS, len(secret) // 4)]


def is_presentable(secret: str) -> bool:
    """Tells whether a header can carry the secret unchanged, and nobody takes it for a token.

    That is printable ASCII, no spaces, not too long, and not the dots of a token.
    """
    return (
        len(secret) <= MAX_SECRET_CHARS
        and all("!" <= character <= "~" for character in secret)
        and not looks_like_token(secret)
    )
