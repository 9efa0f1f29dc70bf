"""`POST /v1/embeddings`: vectors, in the dialect of OpenAI."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from dragoman_edge.body import read_json_object
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.openai.embeddings import MAX_VALUES, read_request, render_pieces
from dragoman_edge.routing import Route
from dragoman_edge.served import tell_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman.streaming import Metadata
    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

_PIECES_AT_A_TIME = 64
"""Vectors that are written before the other requests have their turn: a few milliseconds of work."""


def embedding_routes(edge: Edge) -> list[Route]:
    """Returns the routes of embeddings."""

    async def create_embeddings(exchange: Exchange) -> Response:
        body = await read_json_object(exchange.request, edge.settings, max_values=MAX_VALUES)
        request, in_base64 = read_request(body)
        render = partial(render_pieces, in_base64=in_base64)
        return await answer_embeddings(edge, exchange, request, render, exchange.metadata())

    return [
        Route(
            "POST",
            "/v1/embeddings",
            create_embeddings,
            tag="Embeddings",
            summary="Turns texts into vectors.",
            description=_DESCRIPTION,
            request="EmbeddingRequest",
            answers={"application/json": "EmbeddingList"},
        )
    ]


async def answer_embeddings(
    edge: Edge,
    exchange: Exchange,
    request: EmbedRequest,
    render: Callable[[EmbedResponse], Iterable[bytes]],
    metadata: Metadata,
) -> Response:
    """Answers a request for vectors, in whatever dialect.

    Args:
        edge: The parts of the edge.
        exchange: The request.
        request: What it asks for.
        render: Yields the pieces of the answer, one for each vector.
        metadata: The metadata of the call.

    Raises:
        EdgeError: If the request is refused or fails.
    """
    response = await answer_of(edge.core.embeddings.Embed(request, metadata=metadata))
    if exchange.served is not None:
        exchange.served.take_vectors(response)
    tell_vectors(exchange.headers, response)
    return exchange.json(await _joined(render(response)))


async def _joined(pieces: Iterable[bytes]) -> bytes:
    whole = bytearray()
    for count, piece in enumerate(pieces, start=1):
        whole += piece
        if count % _PIECES_AT_A_TIME == 0:
            await asyncio.sleep(0)
    return bytes(whole)


_DESCRIPTION = "The vectors come in the order of the inputs."
