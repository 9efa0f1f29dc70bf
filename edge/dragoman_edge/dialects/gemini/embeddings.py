"""Embeddings in the dialect: `embedContent`, and `batchEmbedContents` for several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.embedding_service_pb2 import EmbedRequest
from dragoman_edge.dialects.gemini.request import check_message, invalid, missing
from dragoman_edge.dialects.gemini.schemas import snake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
    from dragoman_edge.dialects.gemini.request import Json

_COMMON = ("taskType", "outputDimensionality")
"""What all contents of a batch must agree on: it holds for the whole request."""


def read_single(body: Json, model: str) -> EmbedRequest:
    """Returns what an `EmbedContentRequest` asks for.

    Raises:
        EdgeError: If it breaks a rule; `param` is the path of the field in snake case.
    """
    return _request([check_message(body, "EmbedContentRequest")], [""], model)


def read_batch(body: Json, model: str) -> EmbedRequest:
    """Returns what a `BatchEmbedContentsRequest` asks for.

    Raises:
        EdgeError: If it breaks a rule, or its parts differ in what can hold for all only.
    """
    given = check_message(body, "BatchEmbedContentsRequest").get("requests", [])
    if not given:
        raise missing("requests")
    return _request(given, [f"requests[{index}]." for index in range(len(given))], model)


def _request(given: list[Json], places: list[str], model: str) -> EmbedRequest:
    first = given[0]
    request = EmbedRequest(
        model=model, task_type=first.get("taskType", ""), dimensions=first.get("outputDimensionality")
    )
    if request.task_type == "TASK_TYPE_UNSPECIFIED":
        request.task_type = ""
    for one, place in zip(given, places, strict=True):
        if one.get("model", model).removeprefix("models/") != model.removeprefix("models/"):
            raise invalid(f"{place}model", f"'{place}model' differs from the model in the path.")
        for name in _COMMON:
            if one.get(name) != first.get(name):
                where = place + snake(name)
                raise invalid(where, f"'{where}' differs from that of the first content: ask for them separately.")
        request.inputs.add().text = _text(one, place)
    return request


def _text(one: Json, place: str) -> str:
    parts = one.get("content", {}).get("parts", [])
    for index, part in enumerate(parts):
        if part.keys() != {"text"}:
            where = f"{place}content.parts[{index}]"
            raise invalid(where, f"'{where}' is not a text: vectors are made of texts.")
    text = "\n".join(part["text"] for part in parts)
    if not text:
        raise missing(f"{place}content")
    return text


def render_single(response: EmbedResponse) -> Iterator[bytes]:
    """Yields the `EmbedContentResponse`."""
    yield b'{"embedding":%b,"usageMetadata":%b}' % (_values(response.embeddings[0]), _usage(response))


def render_batch(response: EmbedResponse) -> Iterator[bytes]:
    """Yields the pieces of the `BatchEmbedContentsResponse`, one for each vector."""
    opening = b'{"embeddings":['
    for embedding in response.embeddings:
        yield opening + _values(embedding)
        opening = b","
    yield b'],"usageMetadata":%b}' % _usage(response)


def _values(embedding: Embedding) -> bytes:
    return orjson.dumps({"values": list(embedding.values)})


def _usage(response: EmbedResponse) -> bytes:
    usage: dict[str, Any] = {"promptTokenCount": response.usage.input_tokens}
    return orjson.dumps(usage)
