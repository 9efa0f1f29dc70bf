"""`POST /v1/chat/completions`: a run, in the dialect of OpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_edge.body import read_json_object
from dragoman_edge.dialects.dialect import Generation
from dragoman_edge.dialects.openai.answer import options_of, render_completion
from dragoman_edge.dialects.openai.errors import error_body, param_of_field
from dragoman_edge.dialects.openai.render import ChatRenderer
from dragoman_edge.dialects.openai.request import check_request
from dragoman_edge.dialects.openai.to_proto import fill_chat_spec
from dragoman_edge.routes.generation import PARAMETERS, generate
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman_edge.dialects.openai.schemas import ChatCompletionRequest
    from dragoman_edge.edge import Edge
    from dragoman_edge.errors import EdgeError
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream


def chat_routes(edge: Edge) -> list[Route]:
    """Returns the routes of chat completions."""

    async def create(exchange: Exchange) -> Response | Stream:
        body = await read_json_object(exchange.request, edge.settings)
        return await generate(edge, exchange, generation_of(check_request(body)), exchange.metadata())

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            create,
            tag="Chat",
            summary="Creates a chat completion.",
            description=_DESCRIPTION,
            parameters=PARAMETERS,
            request="ChatCompletionRequest",
            answers={"application/json": "ChatCompletion", "text/event-stream": "ChatCompletionChunk"},
            streams=True,
        )
    ]


def generation_of(request: ChatCompletionRequest, error_body: Callable[[EdgeError], bytes] = error_body) -> Generation:
    """Returns what a checked request asks for.

    Args:
        request: The request.
        error_body: Tells an error within a stream.
    """
    options = options_of(request)
    return Generation(
        lambda spec: fill_chat_spec(spec.chat, request),
        lambda run: render_completion(run, options),
        (lambda: ChatRenderer(options, error_body)) if request.get("stream") else None,
        param_of_field,
    )


_DESCRIPTION = """\
With `stream: true` the answer is a stream of chunks that ends with `[DONE]`. A failure before the first chunk is an
answer with its own status; a later one is a last frame with the member `error`. Comments (`: ping`) keep silent streams
alive."""
