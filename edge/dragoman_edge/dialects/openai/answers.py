"""What answers look like, for the documentation and the tests. Rendering itself needs no schemas."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from dragoman_edge.dialects.openai.embeddings import EmbeddingList
from dragoman_edge.dialects.openai.schemas import ExtraContent  # noqa: TC001 - pydantic reads the hints

_SHAPE = ConfigDict(strict=True, extra="forbid")

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class TopLogprob(TypedDict):
    """One of the likeliest tokens at a place."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TypedDict):
    """The log probability of a token."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class Logprobs(TypedDict):
    """Log probabilities of an answer or a piece of it."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None


class FunctionCall(TypedDict):
    """A call of a function."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: NotRequired[str]
    arguments: str


class CustomCall(TypedDict):
    """A call of a custom tool."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: NotRequired[str]
    input: str


class ToolCall(TypedDict):
    """A call of a tool, or a piece of one; pieces of a call share its `index`, the first has all but the arguments."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[Literal["function", "custom"]]
    function: NotRequired[FunctionCall]
    custom: NotRequired[CustomCall]
    extra_content: NotRequired[ExtraContent]


class Audio(TypedDict):
    """A spoken answer, or a piece of one; `data` is base64."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: NotRequired[str]
    data: NotRequired[str]
    expires_at: NotRequired[int]
    transcript: NotRequired[str]


class Said(TypedDict):
    """What the model said, or a piece of it."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    refusal: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[FunctionCall]
    audio: NotRequired[Audio]


class Choice(TypedDict):
    """One answer."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    index: int
    message: Said
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChunkChoice(TypedDict):
    """A piece of one answer."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    index: int
    delta: Said
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class Usage(TypedDict):
    """What an answer consumed, in tokens."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[dict[str, int]]
    completion_tokens_details: NotRequired[dict[str, int]]


class ChatCompletion(TypedDict):
    """A whole answer."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: NotRequired[Usage]


class ChatCompletionChunk(TypedDict):
    """The data of one frame of a stream."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


class Range(TypedDict):
    """From where to where a number may be."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    min: float
    max: float


class Pricing(TypedDict):
    """What a million tokens cost, in millionths of the currency."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    currency: str
    input_micros: int
    output_micros: int
    cached_input_micros: NotRequired[int]


class Model(TypedDict):
    """A model that can be asked for; what is not known of it is not there."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: NotRequired[int]
    max_output_tokens: NotRequired[int]
    input_modalities: NotRequired[list[str]]
    output_modalities: NotRequired[list[str]]
    capabilities: NotRequired[list[str]]
    limits: NotRequired[dict[str, Range]]
    defaults: NotRequired[dict[str, float]]
    pricing: NotRequired[Pricing]


class ModelList(TypedDict):
    """All models."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    object: Literal["list"]
    data: list[Model]


class ErrorObject(TypedDict):
    """What is wrong."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    message: str
    type: str
    param: str | None
    code: str | None


class Error(TypedDict):
    """Every answer that is not what was asked for, and the last frame of a stream that went wrong."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    error: ErrorObject


ANSWERS: dict[str, TypeAdapter[Any]] = {
    shape.__name__: TypeAdapter(shape)
    for shape in (ChatCompletion, ChatCompletionChunk, EmbeddingList, Model, ModelList, Error)
}
