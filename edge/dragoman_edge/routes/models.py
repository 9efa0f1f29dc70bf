"""`/v1/models`: the catalogue, in the dialect of OpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from dragoman.v1.catalog_service_pb2 import GetModelRequest
from dragoman_edge.calls import all_models, answer_of
from dragoman_edge.dialects.openai.models import model_object
from dragoman_edge.routes.gemini import gemini_catalogue
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

_GOOGLE_KEY = "x-goog-api-key"  # what tells the SDK of Google that asks under v1 from everybody else


def model_routes(edge: Edge) -> list[Route]:
    """Returns the routes of the catalogue."""

    async def list_models(exchange: Exchange) -> Response:
        models = [model_object(model) for model in await all_models(edge.core, exchange.metadata())]
        return exchange.json(orjson.dumps({"object": "list", "data": models}))

    async def get_model(exchange: Exchange) -> Response:
        request = GetModelRequest(model_id=exchange.params["model_id"])
        answer = await answer_of(edge.core.catalog.GetModel(request, metadata=exchange.metadata()))
        return exchange.json(orjson.dumps(model_object(answer.model)))

    gemini_list, gemini_model = gemini_catalogue(edge)
    return [
        Route(
            "GET",
            "/v1/models",
            list_models,
            tag="Models",
            summary="Lists the models.",
            answers={"application/json": "ModelList"},
            instead=(_GOOGLE_KEY, gemini_list),
        ),
        Route(
            "GET",
            "/v1/models/{model_id...}",
            get_model,
            tag="Models",
            summary="Returns a model.",
            description="Slashes in the id may be written as they are or as `%2F`.",
            answers={"application/json": "Model"},
            instead=(_GOOGLE_KEY, gemini_model),
        ),
    ]
