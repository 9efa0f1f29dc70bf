"""Picks the one credential of a request. Whether it is good is for the core to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import hdrs

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_KEY_HEADERS = ("x-api-key", "api-key")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # what gRPC metadata can carry, without spaces


def credential_of(headers: CIMultiDictProxy[str]) -> str | None:
    """Returns the credential, or None if there is none.

    Raises:
        EdgeError: If several headers differ, or one makes no sense.
    """
    found = [_bearer(value) for value in headers.getall(hdrs.AUTHORIZATION, ())]
    for name in _KEY_HEADERS:
        if name in headers:
            found.extend(value.strip() for value in headers.getall(name))
    if not found:
        return None
    credential = found[0]
    if any(other != credential for other in found):
        raise EdgeError("The request carries different API keys; send one.", reason=Reason.API_KEY_INVALID)
    if not _TOKEN.fullmatch(credential):
        raise EdgeError("The API key is malformed.", reason=Reason.API_KEY_INVALID)
    return credential


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise EdgeError("The Authorization header must be `Bearer <API key>`.", reason=Reason.API_KEY_INVALID)
    return token.strip()
