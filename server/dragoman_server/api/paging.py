"""Page sizes and page tokens of all list methods."""

from __future__ import annotations

import base64
import binascii

from dragoman_server.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


def page_size(asked: int) -> int:
    """Returns the size of a page: 0 means 50, more than 1,000 means 1,000.

    Raises:
        InvalidRequest: If it is negative.
    """
    if asked < 0:
        raise InvalidRequest("`page_size` must not be negative", field="page_size")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(scope: str, position: str) -> str:
    """Returns an opaque token for the page after `position`, good only within `scope` (for example an account)."""
    return base64.urlsafe_b64encode(f"{scope}\n{position}".encode()).decode().rstrip("=")


def decode_token(scope: str, token: str) -> str:
    """Returns the position in a token of `encode_token`; empty for an empty token.

    Raises:
        InvalidRequest: If the token is not one of this scope.
    """
    if not token:
        return ""
    try:
        found, newline, position = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition("\n")
    except (binascii.Error, ValueError):
        found = newline = position = ""
    if not newline or found != scope:
        raise InvalidRequest("`page_token` is not a token of this list", field="page_token")
    return position
