"""Page sizes and page tokens of all lists. A token is opaque to clients, and of use in its scope only."""

from __future__ import annotations

import base64
import binascii
import json

from dragoman_server.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_TOKEN_CHARS = 1024

Position = tuple[str | int, ...]
"""Behind what a page begins: the sort key of the last item of the page before."""


def page_size(asked: int) -> int:
    """Returns the size of a page: 0 means 50, more than 1,000 means 1,000.

    Raises:
        InvalidRequest: If it is negative.
    """
    if asked < 0:
        raise InvalidRequest("`page_size` must not be negative", field="page_size")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_token(scope: str, *position: str | int) -> str:
    """Returns the token of the page behind a position.

    Args:
        scope: Where the token is good, for example an account.
        position: The sort key of the last item before the page.
    """
    return base64.urlsafe_b64encode(json.dumps([scope, *position]).encode()).decode().rstrip("=")


def decode_token(scope: str, token: str, *kinds: type[str] | type[int]) -> Position:
    """Returns the position that a token holds, empty for an empty token.

    Args:
        scope: Where the token must be good.
        token: What `encode_token` made.
        kinds: The types of the position's parts; numbers have at most 63 bits.

    Raises:
        InvalidRequest: If it is not such a token.
    """
    if not token:
        return ()
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError("too long")
        padded = token + "=" * (-len(token) % 4)
        found, *position = json.loads(base64.b64decode(padded.encode("ascii"), b"-_", validate=True))
        if found != scope or [type(part) for part in position] != list(kinds):
            raise ValueError("not of this list")
        if any(isinstance(part, int) and abs(part) >= 2**63 for part in position):
            raise ValueError("not a number that is stored")
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidRequest(
            "`page_token` is not the next_page_token of an earlier answer of this list", field="page_token"
        ) from None
    return tuple(position)
