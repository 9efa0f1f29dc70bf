"""Which web pages may call the edge, in the words that browsers ask for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman_edge.dialects.registry import DIALECTS
from dragoman_edge.served import HEADERS as SERVED

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPOSED = ", ".join(
    (
        *("x-request-id", "x-dragoman-run-id", *SERVED),
        *(name for dialect in DIALECTS for name in dialect.headers),
        *("x-dragoman-first-available-sequence", "x-should-retry", "retry-after", "etag"),
    )
)

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")
_NONE: dict[str, str] = {}


def cors_headers(headers: Mapping[str, str], origins: tuple[str, ...]) -> Mapping[str, str]:
    """Returns the headers that let the page of a request read the answer; none if it may not.

    Args:
        headers: The headers of the request, by lower-case name.
        origins: Origins of the pages that may; `*` means all.
    """
    if not origins:
        return _NONE
    if "*" in origins:
        return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": EXPOSED}
    origin = headers.get("origin")
    if origin is None or origin not in origins:
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}


def preflight_headers(headers: Mapping[str, str], allowed: Mapping[str, str], methods: str) -> dict[str, str]:
    """Returns the headers that answer a browser's question whether it may send a request.

    Args:
        headers: The headers of the question, by lower-case name.
        allowed: What `cors_headers` says about it.
        methods: The methods of the resource, separated by commas.
    """
    if "Access-Control-Allow-Origin" not in allowed or "access-control-request-method" not in headers:
        return {}
    answer = {"Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": "600"}
    wanted = headers.get("access-control-request-headers", "")
    if _HEADER_NAMES.fullmatch(wanted):  # every header may be sent: none is trusted for having been allowed
        answer["Access-Control-Allow-Headers"] = wanted
    return answer
