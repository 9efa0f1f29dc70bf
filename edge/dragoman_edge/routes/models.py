"""`/v1/models`: the catalogue, in the dialect of OpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.catalog_service_pb2 import GetModelRequest, ListModelsRequest
from dragoman_edge.calls import answer_of
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange

_PAGE = 1000


def model_routes(edge: Edge) -> list[Route]:
    """Returns the routes of the catalogue."""

    async def list_models(exchange: Exchange) -> StreamResponse:
        request, metadata = ListModelsRequest(page_size=_PAGE), exchange.metadata()
        models: list[dict[str, Any]] = []
        while True:
            page = await answer_of(edge.core.catalog.ListModels(request, metadata=metadata))
            models.extend(_model(model) for model in page.models)
            if not page.next_page_token:
                return exchange.json(orjson.dumps({"object": "list", "data": models}))
            request = ListModelsRequest(page_size=_PAGE, page_token=page.next_page_token)

    async def get_model(exchange: Exchange) -> StreamResponse:
        request = GetModelRequest(model_id=exchange.params["model_id"])
        answer = await answer_of(edge.core.catalog.GetModel(request, metadata=exchange.metadata()))
        return exchange.json(orjson.dumps(_model(answer.model)))

    return [
        Route(
            "GET",
            "/v1/models",
            list_models,
            tag="Models",
            summary="Lists the models.",
            answers={"application/json": "ModelList"},
        ),
        Route(
            "GET",
            "/v1/models/{model_id...}",
            get_model,
            tag="Models",
            summary="Returns a model.",
            description="Slashes in the id may be written as they are or as `%2F`.",
            answers={"application/json": "Model"},
        ),
    ]


def _model(model: Model) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.create_time.seconds, "owned_by": model.owner}
