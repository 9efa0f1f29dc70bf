"""Embeddings in the dialect of OpenAI: what a request may look like, what it means, and what the answer looks like."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Required

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from typing_extensions import TypedDict

from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest
from dragoman.vectors import packed_floats
from dragoman_edge.dialects.openai.request import explain, invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
    from dragoman_edge.errors import EdgeError

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
"""Most tokens of all inputs of a request, if they are given as such; OpenAI takes no more either."""
MAX_VALUES = MAX_TOKENS + 2 * MAX_INPUTS
"""Most JSON values of a body."""

_SHAPE = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)
_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_BATCH = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
_INPUT = {"anyOf": [_TEXT, _TOKENS, _BATCH | {"items": _TEXT}, _BATCH | {"items": _TOKENS}]}

_MAX_TOKEN = 2**31 - 1


class EmbeddingRequest(TypedDict, total=False):
    """A request for vectors: a text, several, or the model's own tokens of one or several."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    input: Required[Annotated[Any, WithJsonSchema(_INPUT)]]  # checked by `_inputs`: a union of four would be slow
    model: Annotated[str | None, Field(description="Id or alias of a model; absent means the server's default.")]
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Field(description="How vectors are written: numbers, or base64 of little-endian 32-bit floats."),
    ]
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None
    user: str | None
    task_type: Annotated[
        Annotated[str, Field(max_length=64)] | None,
        Field(description="Extension: what the vectors are for, in the provider's words, for example RETRIEVAL_QUERY."),
    ]


class EmbeddingObject(TypedDict):
    """The vector of one input."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """What a request consumed, in tokens."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The vectors, in the order of the inputs."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: NotRequired[EmbeddingUsage]


EMBEDDING_REQUEST = TypeAdapter(EmbeddingRequest)

_validate = EMBEDDING_REQUEST.validator.validate_python


def read_request(body: dict[str, Any]) -> tuple[EmbedRequest, bool]:
    """Returns what is asked for, and whether the vectors are to be written in base64.

    Raises:
        EdgeError: If the request breaks a rule; `param` is the path of the parameter, for example `input[3]`.
    """
    try:
        checked: EmbeddingRequest = _validate(body)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_input=False), body) from None
    request = EmbedRequest(
        model=checked.get("model") or "",
        inputs=_inputs(checked["input"]),
        dimensions=checked.get("dimensions"),
        user=checked.get("user") or "",
        task_type=checked.get("task_type") or "",
    )
    return request, checked.get("encoding_format") == "base64"


def _inputs(given: Any) -> list[EmbeddingInput]:
    if not isinstance(given, list):
        return [_input(given, "input")]
    if not given:
        raise invalid("input", "Invalid 'input': it must not be empty.", "empty_array")
    if type(given[0]) is int:  # one input, in tokens
        return [_input(given, "input")]
    if len(given) > MAX_INPUTS:
        message = f"Invalid 'input': expected at most {MAX_INPUTS} items, but got {len(given)} instead."
        raise invalid("input", message, "array_above_max_length")
    kind = type(given[0])
    for index, item in enumerate(given):
        if type(item) is not kind:
            raise _wrong_type(f"input[{index}]")
    return [_input(item, f"input[{index}]") for index, item in enumerate(given)]


def _input(given: Any, param: str) -> EmbeddingInput:
    if isinstance(given, str):
        if not given:
            raise invalid(param, f"Invalid '{param}': it must not be an empty text.")
        return EmbeddingInput(text=given)
    if not isinstance(given, list):
        raise _wrong_type(param)
    if not given:
        raise invalid(param, f"Invalid '{param}': it must not be empty.", "empty_array")
    if set(map(type, given)) != {int}:
        raise _wrong_type(param)
    if min(given) < 0 or max(given) > _MAX_TOKEN:
        raise invalid(param, f"Invalid '{param}': tokens are numbers from 0 to {_MAX_TOKEN}.")
    item = EmbeddingInput()
    item.tokens.ids.extend(given)
    return item


def _wrong_type(param: str) -> EdgeError:
    message = f"Invalid type for '{param}': expected a text or an array of tokens, and all inputs of one kind."
    return invalid(param, message, "invalid_type")


def render_pieces(response: EmbedResponse, *, in_base64: bool) -> Iterator[bytes]:
    """Yields the pieces of the answer, one for each vector: together they may take long to write."""
    render = _base64 if in_base64 else _numbers
    opening = b'{"object":"list","data":['
    for index, embedding in enumerate(response.embeddings):
        yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (opening, index, render(embedding))
        opening = b","
    tokens = response.usage.input_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":%b,"usage":%b}' % (orjson.dumps(response.model), orjson.dumps(usage))


def _base64(embedding: Embedding) -> bytes:
    return b'"%b"' % base64.b64encode(packed_floats(embedding))


def _numbers(embedding: Embedding) -> bytes:
    return orjson.dumps(list(embedding.values))
