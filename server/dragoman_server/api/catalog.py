"""The CatalogService: proto in, catalogue call, proto out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1 import catalog_service_pb2_grpc
from dragoman.v1.catalog_service_pb2 import GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.paging import decode_token, encode_token, page_size

if TYPE_CHECKING:
    import grpc

    from dragoman_server.catalog.service import Catalog

    Context = grpc.aio.ServicerContext[Any, Any]

PAGE_SCOPE = "models"


class CatalogServicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Serves `dragoman.v1.CatalogService`.

    Args:
        catalog: The models.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @mapped
    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        size = page_size(request.page_size)
        after = decode_token(PAGE_SCOPE, request.page_token, str)
        models = self._catalog.list(caller_of().grants, str(after[0]) if after else "", size + 1)
        response = ListModelsResponse(models=models[:size])
        if len(models) > size:
            response.next_page_token = encode_token(PAGE_SCOPE, models[size - 1].id)
        return response

    @mapped
    async def GetModel(self, request: GetModelRequest, context: Context) -> GetModelResponse:
        return GetModelResponse(model=self._catalog.get(request.model_id, caller_of().grants))
