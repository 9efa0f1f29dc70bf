"""Embeddings in the Gemini API: `batchEmbedContents`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
from dragoman_server.errors import ProviderError, UnsupportedFeature
from dragoman_server.providers.failures import broken, failure_of_error, failure_of_status
from dragoman_server.providers.gemini.usage import usage_of
from dragoman_server.providers.json_values import answer_value
from dragoman_server.providers.remote import Call
from dragoman_server.providers.remote_embeddings import EmbeddingDialect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest
    from dragoman_server.providers.vendors import Quirks


def embedding_dialect(resource: Callable[[str], str]) -> EmbeddingDialect:
    """Returns how embeddings are asked for.

    Args:
        resource: Returns the path of a model, from its name.
    """

    def encode(request: EmbedRequest, inputs: Sequence[EmbeddingInput], model: str, quirks: Quirks) -> Call:
        path = resource(model)
        common: dict[str, Any] = {"model": path}
        if request.task_type:
            common["taskType"] = request.task_type
        if request.HasField("dimensions"):
            common["outputDimensionality"] = request.dimensions
        # `user` is a mark for a provider's books; it changes no vector, and has no place here.
        requests = [common | {"content": {"parts": [{"text": _text(item)}]}} for item in inputs]
        return Call(f"/{path}:batchEmbedContents", orjson.dumps({"requests": requests}))

    return EmbeddingDialect(encode, read, failure_of_status)


def _text(item: EmbeddingInput) -> str:
    if not item.HasField("text"):
        raise UnsupportedFeature("the provider takes texts, no tokens", field="inputs")
    return item.text


def read(data: bytes, count: int) -> EmbedResponse:
    """Reads the answer: as many vectors as there were inputs, in their order.

    Raises:
        ProviderError: If it reports a failure, or makes no sense.
    """
    answer = answer_value(data)
    if isinstance(answer, dict) and (error := answer.get("error")):
        raise failure_of_error(error)
    fields: dict[str, Any] = answer if isinstance(answer, dict) else {}
    reported = fields.get("usageMetadata")
    usage = usage_of(reported) if isinstance(reported, dict) else None
    try:
        return EmbedResponse(embeddings=_vectors(fields.get("embeddings"), count), usage=usage)
    except ProviderError as error:
        error.usage = usage
        raise


def _vectors(items: Any, count: int) -> list[Embedding]:
    if not isinstance(items, list) or len(items) != count:
        raise broken(f"it should have {count} vectors, one for each input")
    try:
        return [Embedding(values=item["values"]) for item in items]
    except (KeyError, TypeError, ValueError):
        raise broken("a vector has no numbers") from None
