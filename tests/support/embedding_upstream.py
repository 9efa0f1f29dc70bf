"""Answers of servers that make vectors, for `upstream_server`: each vector is that of the scripted provider."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from dragoman.v1.embedding_service_pb2 import Embedding, EmbeddingInput, EmbedRequest, TokenList
from dragoman.vectors import packed_floats
from dragoman_server.errors import DragomanError, ProviderError
from dragoman_server.providers.scripted import EMBEDDING_MODEL, ScriptedProvider
from tests.support.upstream_server import Answer, Connection, Request, whole

STATUSES = {"PROVIDER_RATE_LIMITED": 429, "PROVIDER_AUTH": 401, "CONTEXT_LENGTH_EXCEEDED": 400}


def texts(*given: str, **fields: Any) -> EmbedRequest:
    """Returns a request for texts."""
    return EmbedRequest(inputs=[EmbeddingInput(text=text) for text in given], **fields)


def tokens(*given: list[int], **fields: Any) -> EmbedRequest:
    """Returns a request for tokens."""
    return EmbedRequest(inputs=[EmbeddingInput(tokens=TokenList(ids=ids)) for ids in given], **fields)


def _written(vector: Embedding, encoding: str | None) -> Any:
    return base64.b64encode(packed_floats(vector)).decode() if encoding == "base64" else list(vector.values)


def openai_embeddings() -> Answer:
    """Answers `POST /embeddings`; vectors come in reverse, to be sorted by their index."""

    async def answer(request: Request, connection: Connection) -> None:
        body = request.json
        given = [EmbeddingInput(text=item) for item in body["input"] if isinstance(item, str)]
        given += [EmbeddingInput(tokens=TokenList(ids=item)) for item in body["input"] if isinstance(item, list)]
        asked = EmbedRequest(inputs=given, dimensions=body.get("dimensions"))
        try:
            made = await ScriptedProvider("upstream").embed(asked, EMBEDDING_MODEL)
        except DragomanError as error:
            await connection.write(_failed(error))
            return
        count = made.usage.input_tokens
        data = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.get("encoding_format"))}
            for index, vector in enumerate(made.embeddings)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        whole_answer = {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}
        await connection.write(whole(200, orjson.dumps(whole_answer)))

    return answer


def gemini_embeddings() -> Answer:
    """Answers `POST /models/MODEL:batchEmbedContents`."""

    async def answer(request: Request, connection: Connection) -> None:
        requests = request.json["requests"]
        asked = EmbedRequest(
            inputs=[EmbeddingInput(text=one["content"]["parts"][0]["text"]) for one in requests],
            dimensions=requests[0].get("outputDimensionality"),
        )
        try:
            made = await ScriptedProvider("upstream").embed(asked, EMBEDDING_MODEL)
        except DragomanError as error:
            await connection.write(_failed(error))
            return
        vectors = [{"values": list(vector.values)} for vector in made.embeddings]
        usage = {"promptTokenCount": made.usage.input_tokens}
        await connection.write(whole(200, orjson.dumps({"embeddings": vectors, "usageMetadata": usage})))

    return answer


def _failed(error: DragomanError) -> bytes:
    code = error.reason.lower() if error.reason in STATUSES else None
    body = {"error": {"message": error.message, "type": "server_error", "param": None, "code": code}}
    status = STATUSES.get(error.reason, 500 if isinstance(error, ProviderError) else 400)
    return whole(status, orjson.dumps(body), Retry_After=2)
