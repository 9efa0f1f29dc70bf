"""The EmbeddingService: proto in, domain call, proto out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1 import embedding_service_pb2_grpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped

if TYPE_CHECKING:
    import grpc

    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman_server.embeddings.service import Embeddings

    Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    """Serves `dragoman.v1.EmbeddingService`.

    Args:
        embeddings: Makes the vectors.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    @mapped
    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:
        return await self._embeddings.embed(caller_of(), request)
