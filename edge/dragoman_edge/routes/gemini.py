"""`/v1beta/models`: generations and the catalogue, in the dialect of Google's Gemini API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import GetModelRequest, ListModelsRequest
from dragoman_edge.auth import in_headers_or_query
from dragoman_edge.body import takes_json
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.dialect import Generation
from dragoman_edge.dialects.gemini.answer import options_of, render_answer
from dragoman_edge.dialects.gemini.errors import field_of
from dragoman_edge.dialects.gemini.models import model_object
from dragoman_edge.dialects.gemini.render import GenerateContentRenderer
from dragoman_edge.dialects.gemini.request import check_request
from dragoman_edge.dialects.gemini.to_proto import fill_spec
from dragoman_edge.dialects.registry import GEMINI
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.generation import PARAMETERS, generate
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler

_LARGEST_PAGE = 1000


def gemini_routes(edge: Edge) -> list[Route]:
    """Returns the routes of the dialect. Some paths of the catalogue are shared: see `models`."""

    def generate_content(exchange: Exchange, array: bool, body: dict[str, Any]) -> Awaitable[Response | Stream]:
        return answer(exchange, array, body, streams=False)

    def stream_generate_content(exchange: Exchange, array: bool, body: dict[str, Any]) -> Awaitable[Response | Stream]:
        return answer(exchange, array, body, streams=True)

    def answer(exchange: Exchange, array: bool, body: dict[str, Any], *, streams: bool) -> Awaitable[Response | Stream]:
        generation = read_generation(body, array, exchange.params["model_id"], streams=streams)
        return generate(edge, exchange, generation, exchange.metadata())

    whole = takes_json(edge.settings, wants_array, generate_content)
    streamed = takes_json(edge.settings, wants_array, stream_generate_content)
    generations = _generation_routes("/v1beta/models", whole, streamed)
    # An SDK of Google's asks under v1 when it is given no version.
    twins = _generation_routes("/v1/models", whole, streamed)
    return [
        *generations,
        *(replace(route, documented=False) for route in twins),
        *gemini_catalogue(edge),
    ]


def gemini_catalogue(edge: Edge) -> tuple[Route, Route]:
    """Returns the routes of the catalogue: the list, and one model."""

    async def list_gemini_models(exchange: Exchange) -> Response:
        query = exchange.query()
        request = ListModelsRequest(page_size=_page_size(query), page_token=query.get("pageToken", ""))
        page = await answer_of(edge.core.catalog.ListModels(request, metadata=exchange.metadata()))
        body: dict[str, Any] = {"models": [model_object(model) for model in page.models]}
        if page.next_page_token:
            body["nextPageToken"] = page.next_page_token
        return exchange.json(orjson.dumps(body))

    async def get_gemini_model(exchange: Exchange) -> Response:
        request = GetModelRequest(model_id=exchange.params["model_id"])
        found = await answer_of(edge.core.catalog.GetModel(request, metadata=exchange.metadata()))
        return exchange.json(orjson.dumps(model_object(found.model)))

    return (
        Route(
            "GET",
            "/v1beta/models",
            list_gemini_models,
            tag=_TAG,
            summary="Lists the models.",
            parameters=_PAGING,
            answers={"application/json": "gemini.ListModelsResponse"},
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        ),
        Route(
            "GET",
            "/v1beta/models/{model_id...}",
            get_gemini_model,
            tag=_TAG,
            summary="Returns a model.",
            parameters=(KEY,),
            answers={"application/json": "gemini.Model"},
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        ),
    )


def _generation_routes(models: str, whole: Handler, stream: Handler) -> list[Route]:
    """Returns the routes of generations below a path; the last one tells that there are no others."""
    return [
        Route(
            "POST",
            models + "/{model_id...}:generateContent",
            whole,
            tag=_TAG,
            summary="Generates content.",
            description=_WHOLE,
            parameters=(KEY, *PARAMETERS),
            request="gemini.GenerateContentRequest",
            answers={"application/json": "gemini.GenerateContentResponse"},
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        ),
        Route(
            "POST",
            models + "/{model_id...}:streamGenerateContent",
            stream,
            tag=_TAG,
            summary="Generates content, as a stream of partial answers.",
            description=_STREAM,
            parameters=(ALT, KEY, *PARAMETERS),
            request="gemini.GenerateContentRequest",
            answers={
                "text/event-stream": "gemini.GenerateContentResponse",
                "application/json": "gemini.GenerateContentResponse",
            },
            streams=True,
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        ),
        Route(
            "POST",
            models + "/{model_id...}",
            _refuse_method,
            tag=_TAG,
            summary="Refuses every other method.",
            documented=False,
            dialect=GEMINI,
            find_credential=in_headers_or_query,
        ),
    ]


async def _refuse_method(exchange: Exchange) -> NoReturn:
    raise unknown_method(exchange.params["model_id"].rpartition(":")[2])


def unknown_method(name: str) -> EdgeError:
    """Returns the refusal of a method of models that there is not."""
    message = f"This server has no method {name[:60]!r} of models; the documentation at /docs lists those it has."
    return EdgeError(message, reason=Reason.NOT_FOUND)


def wants_array(exchange: Exchange) -> bool:
    """Returns whether a stream is to be one JSON array, and not server-sent events.

    Raises:
        EdgeError: If it makes no sense.
    """
    query = exchange.query()
    form = query.get("alt", query.get("$alt", "json"))
    if form not in ("json", "sse"):
        raise EdgeError(f"Invalid value for 'alt': {form[:40]!r}; it must be json or sse.", param="alt")
    return form == "json"


def read_generation(body: dict[str, Any], array: bool, model: str, *, streams: bool) -> Generation:
    """Reads a request for a generation.

    Args:
        body: The request.
        array: Whether a stream is one JSON array.
        model: The model that its path names.
        streams: Whether its path asks for a stream.

    Raises:
        EdgeError: If it breaks a rule.
    """
    request = check_request(body)
    options = options_of(request, array=array)
    return Generation(
        fill=lambda spec: fill_spec(spec, request, model),
        render=lambda run: render_answer(run, options),
        renderer=(lambda: GenerateContentRenderer(options)) if streams else None,
        name_of=field_of,
    )


def _page_size(query: dict[str, str]) -> int:
    text = query.get("pageSize", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise EdgeError("Invalid value for 'pageSize': it must be a whole number, 0 or more.", param="page_size")
    return min(int(text), _LARGEST_PAGE)


_TAG = "Gemini"
KEY = Parameter("key", "query", "The API key, for clients that do not send it in a header.")
"""The parameter that Google's dialect has for the key."""
ALT = Parameter(
    "alt",
    "query",
    "`sse` asks for server-sent events; otherwise the stream is a JSON array.",
    {"type": "string", "enum": ["json", "sse"]},
)
"""The parameter that says how a stream is framed."""
_PAGING = (
    KEY,
    Parameter("pageSize", "query", "Most models to return.", {"type": "integer", "minimum": 0}),
    Parameter("pageToken", "query", "`nextPageToken` of the page before."),
)
_WHOLE = "Slashes in the model's id may be written as they are or as `%2F`. The same is served under `/v1`."
_STREAM = """\
Each frame or element is a partial answer; the last has the finish reasons and the usage. No `[DONE]` follows it.
A failure before the first is an answer with its own status; a later one is a last element with the member `error`."""
