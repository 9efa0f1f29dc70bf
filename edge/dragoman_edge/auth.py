"""Picks the one credential of a request. Whether it is good is for the core to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from dragoman_edge.http.request import Request

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # what gRPC metadata can carry, without spaces

_BEARER = "Bearer "


def credential_of(request: Request, given: str | None = None, headers: tuple[str, ...] = KEY_HEADERS) -> str | None:
    """Returns the credential, or None if there is none.

    Args:
        request: The request.
        given: One from elsewhere than the headers.
        headers: The headers that may carry it beside Authorization, in lower case.

    Raises:
        EdgeError: If several differ, or one makes no sense.
    """
    if given is None and not request.repeats and request.headers.keys().isdisjoint(headers):
        value = request.headers.get("authorization")  # mostly, it is the only one, and in order
        if value is None:
            return None
        if value.startswith(_BEARER) and _TOKEN.fullmatch(value, len(_BEARER)):
            return value[len(_BEARER) :]
    found = [_bearer(value) for value in request.all_values("authorization")]
    for name in headers:
        if name in request.headers:
            found.extend(value.strip() for value in request.all_values(name))
    if given is not None:
        found.append(given)
    if not found:
        return None
    credential = found[0]
    if len(found) > 1 and any(other != credential for other in found):
        raise EdgeError("The request carries different API keys; send one.", reason=Reason.API_KEY_INVALID)
    if not _TOKEN.fullmatch(credential):
        raise EdgeError("The API key is malformed.", reason=Reason.API_KEY_INVALID)
    return credential


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise EdgeError("The Authorization header must be `Bearer <API key>`.", reason=Reason.API_KEY_INVALID)
    return token.strip()
