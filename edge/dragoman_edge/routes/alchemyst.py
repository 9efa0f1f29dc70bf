"""`/api/v1/proxy`: generations by servers that the path names, in the dialects of OpenAI and Gemini."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dragoman.reasons import Reason
from dragoman_edge.auth import KEY_HEADERS, credential_of
from dragoman_edge.body import takes_json
from dragoman_edge.dialects.alchemyst.errors import openai_error_body
from dragoman_edge.dialects.alchemyst.paths import gemini_upstream, openai_upstream, task_of
from dragoman_edge.dialects.openai.request import invalid
from dragoman_edge.dialects.registry import GEMINI_PROXY, OPENAI_PROXY
from dragoman_edge.errors import EdgeError
from dragoman_edge.exchange import Exchange
from dragoman_edge.routes.chat import answer_chat
from dragoman_edge.routes.chat import read_generation as read_chat
from dragoman_edge.routes.gemini import ALT, read_generation, unknown_method, wants_array
from dragoman_edge.routes.generation import PARAMETERS, generate
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.streaming import Metadata
    from dragoman.v1.run_pb2 import RunSpec, Upstream
    from dragoman_edge.dialects.dialect import Generation
    from dragoman_edge.edge import Edge
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler

    Fill = Callable[[RunSpec], None]

PREFIX = "/api/v1/proxy/"
_COMPLETIONS = "/chat/completions"
_GOOGLE = "x-goog-api-key"
_OURS = tuple(name for name in KEY_HEADERS if name != _GOOGLE)
_STREAMS = {"generateContent": False, "streamGenerateContent": True}


def proxy_routes(edge: Edge) -> list[Route]:
    """Returns the routes of the proxies. They read the path as it stands in the request line."""

    def create_by_default(exchange: Exchange, metadata: Metadata, body: dict[str, Any]) -> Awaitable[Response | Stream]:
        generation = read_chat(body, openai_error_body, needs_model=True)
        if body["model"] not in edge.settings.proxy_default_names:
            names = ", ".join(edge.settings.proxy_default_names)
            raise invalid("model", f"Invalid value for 'model': here it must be one of: {names}.")
        generation = _also(generation, _names_model(edge.settings.proxy_default_model))
        return answer_chat(edge, exchange, generation, metadata)

    def create_at_upstream(
        exchange: Exchange, upstream: Upstream, body: dict[str, Any]
    ) -> Awaitable[Response | Stream]:
        generation = _also(read_chat(body, openai_error_body, needs_model=True), _names_upstream(upstream))
        return answer_chat(edge, exchange, generation, exchange.metadata())

    def generate_at_upstream(exchange: Exchange, asked: _Asked, body: dict[str, Any]) -> Awaitable[Response | Stream]:
        generation = read_generation(body, asked.array, asked.model, streams=asked.streams)
        generation = _also(generation, _names_upstream(asked.upstream))
        return generate(edge, exchange, generation, exchange.metadata())

    return [
        *_default_routes(takes_json(edge.settings, Exchange.metadata, create_by_default)),
        *_gemini_routes(takes_json(edge.settings, _asked_of_gemini, generate_at_upstream)),
        *_upstream_routes(takes_json(edge.settings, _asked_upstream, create_at_upstream)),
    ]


class _Asked(NamedTuple):
    """What the head of a request to the Gemini proxy says.

    Attributes:
        upstream: The server to call, and the key for it.
        model: The model.
        streams: Whether the answer is a stream.
        array: Whether a stream is one JSON array.
    """

    upstream: Upstream
    model: str
    streams: bool
    array: bool


def _asked_upstream(exchange: Exchange) -> Upstream:
    return openai_upstream(exchange.request.path[len(PREFIX) : -len(_COMPLETIONS)])


def _asked_of_gemini(exchange: Exchange) -> _Asked:
    place, version, _, segment = exchange.request.path[len(PREFIX) :].rsplit("/", 3)
    upstream = gemini_upstream(place, version, _keys(exchange)[1])
    task = task_of(segment)
    if not task.model or task.method not in _STREAMS:
        raise unknown_method(task.method)
    return _Asked(upstream, task.model, _STREAMS[task.method], wants_array(exchange))


def _also(generation: Generation, fill: Fill) -> Generation:
    """Returns a generation whose spec says more."""

    def fill_both(spec: RunSpec) -> None:
        generation.fill(spec)
        fill(spec)

    return replace(generation, fill=fill_both)


def _names_model(model: str) -> Fill:
    return lambda spec: setattr(spec.chat, "model", model)


def _names_upstream(upstream: Upstream) -> Fill:
    return lambda spec: spec.chat.upstream.CopyFrom(upstream)


def _key_for_us(exchange: Exchange) -> str | None:
    return _keys(exchange)[0]


def _keys(exchange: Exchange) -> tuple[str | None, str]:
    """Returns the key for this server, and the one for the upstream.

    Google's SDKs send `x-goog-api-key` or `?key=`, whatever else they are told to send: it is the upstream's if another
    header has the key for this server. A key for this server is never sent on.

    Raises:
        EdgeError: If there are several for one of them, or one makes no sense.
    """
    query = exchange.query()
    given = [value.strip() for value in exchange.request.all_values(_GOOGLE)]
    if "key" in query:
        given.append(query["key"])
    ours = credential_of(exchange.request, headers=_OURS)
    if ours is None and given:
        ours = credential_of(exchange.request, given[0], headers=())
    theirs = set(given) - {ours}
    if len(theirs) > 1:
        message = "The request carries different API keys for the upstream server; send one."
        raise EdgeError(message, reason=Reason.API_KEY_INVALID)
    return ours, theirs.pop() if theirs else ""


def _default_routes(handler: Handler) -> list[Route]:
    route = Route(
        "POST",
        f"{PREFIX}default{_COMPLETIONS}",
        handler,
        tag=_TAG,
        summary="Creates a chat completion with the model of this server.",
        description="The same is served under `/api/v1/proxy/default`.",
        parameters=PARAMETERS,
        request="ChatCompletionRequest",
        answers=_CHAT_ANSWERS,
        streams=True,
        dialect=OPENAI_PROXY,
    )
    return [route, replace(route, path=f"{PREFIX}default", documented=False)]


def _upstream_routes(handler: Handler) -> list[Route]:
    route = Route(
        "POST",
        f"{PREFIX}{{proxyUrl...}}/{{OpenAIAPIKey}}{_COMPLETIONS}",
        handler,
        tag=_TAG,
        summary="Creates a chat completion at a server of your choice, with your key for it.",
        description=_UPSTREAM,
        parameters=PARAMETERS,
        request="ChatCompletionRequest",
        answers=_CHAT_ANSWERS,
        streams=True,
        dialect=OPENAI_PROXY,
    )
    # The slash before the key may be encoded.
    return [route, replace(route, path=f"{PREFIX}{{proxyUrl...}}{_COMPLETIONS}", documented=False)]


def _gemini_routes(handler: Handler) -> list[Route]:
    route = Route(
        "POST",
        f"{PREFIX}{{geminiUrl...}}/v1beta/models/{{modelNameAndTask}}",
        handler,
        tag=_TAG,
        summary="Generates content at a server of your choice, with your key for it.",
        description=_GEMINI,
        parameters=(ALT, _KEY, *PARAMETERS),
        request="gemini.GenerateContentRequest",
        answers={
            "application/json": "gemini.GenerateContentResponse",
            "text/event-stream": "gemini.GenerateContentResponse",
        },
        streams=True,
        dialect=GEMINI_PROXY,
        find_credential=_key_for_us,
    )
    # An SDK of Google's asks under v1 when it is given no version.
    twin = f"{PREFIX}{{geminiUrl...}}/v1/models/{{modelNameAndTask}}"
    return [route, replace(route, path=twin, documented=False)]


_TAG = "Proxies"
_CHAT_ANSWERS = {"application/json": "ChatCompletion", "text/event-stream": "ChatCompletionChunk"}
_KEY = Parameter("key", "query", "The API key for the upstream server, if it is not in `x-goog-api-key`.")
_UPSTREAM = """\
`proxyUrl` is the base URL of a server on this server's allow-list, raw or percent-encoded once; without a scheme it is
`https`. The Authorization header has the key for this server, the path the one for the other."""
_GEMINI = """\
`geminiUrl` is as `proxyUrl`. `modelNameAndTask` is `MODEL:generateContent` or `MODEL:streamGenerateContent`. The
Authorization header has the key for this server, `x-goog-api-key` the one for the other; without an Authorization
header, `x-goog-api-key` is the key for this server."""
