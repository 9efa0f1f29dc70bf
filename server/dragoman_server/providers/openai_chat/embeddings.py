"""Embeddings in the dialect of OpenAI: `POST /embeddings`."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
from dragoman.vectors import embedding_of
from dragoman_server.errors import InvalidRequest, ProviderError, UnsupportedFeature
from dragoman_server.providers.failures import broken, failure_of_error, failure_of_status
from dragoman_server.providers.json_values import answer_value
from dragoman_server.providers.openai_chat.usage import usage_of
from dragoman_server.providers.remote import Call
from dragoman_server.providers.remote_embeddings import EmbeddingDialect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest
    from dragoman_server.providers.vendors import Quirks

PATH = "/embeddings"


def encode(request: EmbedRequest, inputs: Sequence[EmbeddingInput], model: str, quirks: Quirks) -> Call:
    """Writes the request for some inputs.

    Raises:
        UnsupportedFeature: If a task is named: the dialect has no word for it.
        InvalidRequest: If some inputs are texts and others are tokens.
    """
    if request.task_type:
        raise UnsupportedFeature("the provider's dialect has no word for a task: leave it out", field="task_type")
    if len({item.WhichOneof("kind") for item in inputs}) > 1:
        raise InvalidRequest("the provider takes either texts or tokens, not both in one request", field="inputs")
    body: dict[str, Any] = {
        "model": model,
        "input": [item.text if item.HasField("text") else list(item.tokens.ids) for item in inputs],
    }
    if quirks.base64_embeddings:
        body["encoding_format"] = "base64"
    if request.HasField("dimensions"):
        body["dimensions"] = request.dimensions
    if request.user:
        body["user"] = request.user
    return Call(PATH, orjson.dumps(body))


def read(data: bytes, count: int) -> EmbedResponse:
    """Reads the answer, whether its vectors are numbers or base64, in whatever order they come.

    Raises:
        ProviderError: If it reports a failure, or makes no sense.
    """
    answer = answer_value(data)
    if not isinstance(answer, dict) or not isinstance(items := answer.get("data"), list):
        if isinstance(answer, dict) and (error := answer.get("error")):
            raise failure_of_error(error)
        raise broken("it has no list of vectors")
    reported = answer.get("usage")
    usage = usage_of(reported) if isinstance(reported, dict) else None
    try:
        return EmbedResponse(embeddings=_vectors(items, count), usage=usage)
    except ProviderError as error:
        error.usage = usage
        raise


def _vectors(items: list[Any], count: int) -> list[Embedding]:
    """Returns the vectors in the order of the inputs."""
    vectors: dict[int, Embedding] = {}
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise broken("a vector is no object")
        index = item.get("index", position)
        vectors[index if isinstance(index, int) else -1] = _vector(item.get("embedding"))
    if len(items) != count or vectors.keys() != set(range(count)):
        raise broken(f"it should have {count} vectors, one for each input")
    return [vectors[index] for index in range(count)]


def _vector(value: Any) -> Embedding:
    try:
        if isinstance(value, str):
            return embedding_of(base64.b64decode(value, validate=True))
        return Embedding(values=value)
    except (TypeError, ValueError, binascii.Error):
        raise broken("a vector is neither numbers nor base64") from None


EMBEDDINGS = EmbeddingDialect(encode, read, failure_of_status)
"""Embeddings, as most servers take them that speak the dialect."""
