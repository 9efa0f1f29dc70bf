"""`POST /v1/chat/completions`: a run, in the dialect of OpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman_edge.body import takes_json
from dragoman_edge.dialects.dialect import Generation
from dragoman_edge.dialects.openai.answer import options_of, render_completion
from dragoman_edge.dialects.openai.errors import (
    error_body,
    named_for_functions,
    param_of_field,
    param_of_function_field,
)
from dragoman_edge.dialects.openai.plain import read_plain
from dragoman_edge.dialects.openai.render import ChatRenderer
from dragoman_edge.dialects.openai.request import check_request, missing
from dragoman_edge.dialects.openai.to_proto import fill_chat_spec
from dragoman_edge.errors import EdgeError
from dragoman_edge.exchange import Exchange
from dragoman_edge.routes.generation import PARAMETERS, generate
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.streaming import Metadata
    from dragoman.v1.run_pb2 import RunSpec
    from dragoman_edge.edge import Edge
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream


def chat_routes(edge: Edge) -> list[Route]:
    """Returns the routes of chat completions."""

    def create(exchange: Exchange, metadata: Metadata, body: dict[str, Any]) -> Awaitable[Response | Stream]:
        return answer_chat(edge, exchange, read_generation(body), metadata)

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            takes_json(edge.settings, Exchange.metadata, create),
            tag="Chat",
            summary="Creates a chat completion.",
            description=_DESCRIPTION,
            parameters=PARAMETERS,
            request="ChatCompletionRequest",
            answers={"application/json": "ChatCompletion", "text/event-stream": "ChatCompletionChunk"},
            streams=True,
        )
    ]


def answer_chat(
    edge: Edge, exchange: Exchange, generation: Generation, metadata: Metadata
) -> Awaitable[Response | Stream]:
    """Does what `generate` does; what is wrong with a request is told in the words that it has itself."""
    answer = generate(edge, exchange, generation, metadata)
    return answer if generation.name_of is param_of_field else _named_for_functions(answer)


async def _named_for_functions(answer: Awaitable[Response | Stream]) -> Response | Stream:
    try:
        return await answer
    except EdgeError as error:
        raise named_for_functions(error) from None


def read_generation(
    body: dict[str, Any], error_body: Callable[[EdgeError], bytes] = error_body, *, needs_model: bool = False
) -> Generation:
    """Returns what a request asks for.

    Args:
        body: The request.
        error_body: Tells an error within a stream.
        needs_model: Whether it must name a model.

    Raises:
        EdgeError: If it breaks a rule.
    """
    fill: Callable[[RunSpec], object]
    tell, name_of = error_body, param_of_field
    plain = read_plain(body)
    if plain is not None:
        wire, options, streams = plain
        fill = lambda spec: spec.chat.MergeFromString(wire)  # noqa: E731
    else:
        request = check_request(body)
        options, streams = options_of(request), bool(request.get("stream"))
        fill = lambda spec: fill_chat_spec(spec.chat, request)  # noqa: E731
        if options.legacy_functions:
            tell, name_of = lambda error: error_body(named_for_functions(error)), param_of_function_field
    if needs_model and not options.model:
        raise missing("model")
    return Generation(
        fill,
        lambda run: render_completion(run, options),
        (lambda: ChatRenderer(options, tell)) if streams else None,
        name_of,
    )


_DESCRIPTION = """\
With `stream: true` the answer is a stream of chunks that ends with `[DONE]`. A failure before the first chunk is an
answer with its own status; a later one is a last frame with the member `error`. Comments (`: ping`) keep silent streams
alive."""
