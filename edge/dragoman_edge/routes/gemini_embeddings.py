"""`/v1beta/models/{model}:embedContent`: vectors, in the dialect of Google's Gemini API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dragoman_edge.auth import in_headers_or_query
from dragoman_edge.body import read_json_object
from dragoman_edge.dialects.gemini.embeddings import read_batch, read_single, render_batch, render_single
from dragoman_edge.dialects.registry import GEMINI
from dragoman_edge.routes.embeddings import answer_embeddings
from dragoman_edge.routes.gemini import KEY
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response


def gemini_embedding_routes(edge: Edge) -> list[Route]:
    """Returns the routes of embeddings. They come before those of the dialect that refuse every other method."""

    async def embed_content(exchange: Exchange) -> Response:
        return await answer(exchange, read_single, render_single)

    async def batch_embed_contents(exchange: Exchange) -> Response:
        return await answer(exchange, read_batch, render_batch)

    async def answer(
        exchange: Exchange,
        read: Callable[[dict[str, object], str], EmbedRequest],
        render: Callable[[EmbedResponse], Iterator[bytes]],
    ) -> Response:
        request = read(await read_json_object(exchange.request, edge.settings), exchange.params["model_id"])
        return await answer_embeddings(edge, exchange, request, render, exchange.metadata())

    rows = (
        ("embedContent", embed_content, "Turns a content into a vector.", "EmbedContent"),
        ("batchEmbedContents", batch_embed_contents, "Turns contents into vectors.", "BatchEmbedContents"),
    )
    routes = [
        Route(
            "POST",
            f"/v1beta/models/{{model_id...}}:{method}",
            handler,
            tag="Gemini",
            summary=summary,
            description="The same is served under `/v1`.",
            parameters=(KEY,),
            request=f"gemini.{message}Request",
            answers={"application/json": f"gemini.{message}Response"},
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        )
        for method, handler, summary, message in rows
    ]
    twins = [replace(route, path=route.path.replace("/v1beta/", "/v1/"), documented=False) for route in routes]
    return [*routes, *twins]
