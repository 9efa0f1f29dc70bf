"""What requests look like. They are strict (no coercion) and closed (no unknown members); `null` counts as absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

_SHAPE = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class TextPart(TypedDict):
    """A piece of what is said, as OpenAI's clients send it."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["text"]
    text: str


class ChatMessage(TypedDict, total=False):
    """A message. That of an answer may be sent back as it is."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Required[Literal["user", "assistant", "system", "developer"]]
    content: Required[str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]]
    name: str | None
    data: Annotated[Any, Field(description="What services found for an earlier answer; models are not shown it.")]
    # OpenAI's SDKs send these along with their answers.
    refusal: None
    annotations: None
    audio: None
    function_call: None
    tool_calls: None


class StreamOptions(TypedDict, total=False):
    """How to stream."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    format: Annotated[
        Literal["soke", "openai"] | None,
        Field(description="`openai` asks for `chat.completion.chunk` objects; absent means this dialect's own frames."),
    ]
    include_usage: Annotated[
        bool | None, Field(description="Whether a stream of OpenAI's chunks tells the usage; other streams always do.")
    ]
    include_obfuscation: Annotated[bool | None, Field(description="Accepted; streams are never padded.")]


class ChatRequest(TypedDict, total=False):
    """A chat completion request. OpenAI's parameters of sampling are accepted beside these, and left out."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    messages: Required[Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]]
    platform: Annotated[str | None, Field(description="`youtube`, in whatever case; absent means that.")]
    model: Annotated[str | None, Field(description="`soke-v1`, or a model of this server; absent means `soke-v1`.")]
    conversationId: Annotated[
        str | None,
        Field(description="The stored conversation that this goes on with. With an API key it is not looked at."),
    ]
    connectionId: Annotated[str | None, Field(description="A connected platform account; there are none yet.")]
    n: Literal[1] | None
    stream: bool | None
    stream_options: StreamOptions | None


CHAT: TypeAdapter[ChatRequest] = TypeAdapter(ChatRequest)
