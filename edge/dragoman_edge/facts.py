"""What the head of a request decides: found out once for all requests of a connection that come with the same head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dragoman_edge.auth import FindCredential
    from dragoman_edge.dialects.dialect import Dialect
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.metrics import RouteCounts


@dataclass(slots=True)
class HeadFacts:
    """What a head decides. Whatever is None was not asked for yet.

    Attributes:
        route: The path of its route, as the route table has it; `unknown` if it has none.
        handler: Answers it.
        dialect: The words in which its errors are told.
        counts: Counts its answers.
        params: The variable parts of its path, decoded.
        find_credential: Finds its credential.
        cors: The headers that let a web page read the answer.
        request_id: The client's name of the request, if that is sane; else empty.
        credential: The metadata that carries its credential: one pair, or none.
        json_as_it_is: Whether its body is sent at once, as JSON and nothing else.
        shapes_run: Whether a header shapes the run that it asks for.
    """

    route: str
    handler: Callable[[Exchange], Response | Awaitable[Response | Stream]]
    dialect: Dialect
    counts: RouteCounts
    params: Mapping[str, str]
    find_credential: FindCredential
    cors: Mapping[str, str]
    request_id: str
    credential: tuple[tuple[str, str], ...] | None = None
    json_as_it_is: bool | None = None
    shapes_run: bool | None = None
