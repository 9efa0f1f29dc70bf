"""Page tokens: where the next page of an account's keys begins. Opaque to clients, and of use in their account only."""

from __future__ import annotations

import base64
import binascii
import json
import re

from dragoman_server.errors import InvalidRequest

Position = tuple[int, str]
"""A key's creation time in microseconds and its id: the order of pages."""

KEY_ID = re.compile(r"key_[0-9a-f]{32}", re.ASCII)
"""What the id of a key looks like."""

_MAX_CHARS = 1024


def encode_page_token(account_id: str, position: Position) -> str:
    """Returns the token of the page behind a position."""
    return base64.urlsafe_b64encode(json.dumps([account_id, *position]).encode()).decode().rstrip("=")


def decode_page_token(account_id: str, token: str) -> Position:
    """Returns the position that a token holds.

    Raises:
        InvalidRequest: If it is not a token that the server made for this account.
    """
    try:
        if len(token) > _MAX_CHARS:
            raise ValueError("too long")
        padded = token + "=" * (-len(token) % 4)
        owner, create_time, key_id = json.loads(base64.b64decode(padded.encode("ascii"), b"-_", validate=True))
        if owner != account_id or type(create_time) is not int or abs(create_time) >= 2**63:
            raise ValueError("not of this account")
        if not isinstance(key_id, str) or not KEY_ID.fullmatch(key_id):
            raise ValueError("not a key")
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidRequest(
            "page_token is not the next_page_token of an earlier answer to this account", field="page_token"
        ) from None
    return create_time, key_id
