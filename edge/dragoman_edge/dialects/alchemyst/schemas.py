"""What requests of the chat API look like.

Messages are open: whatever else a client keeps with one is kept with it. Of the two names of what is said, requests use
`content` and stored messages `message`; both are taken everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

_CLOSED = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)
_OPEN = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

Title = Annotated[str, Field(max_length=256)]
Label = Annotated[str, Field(max_length=512)]


class ChatMessage(TypedDict, total=False):
    """A message, with whatever else the client keeps with it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    role: Required[Literal["user", "assistant", "system"]]
    content: Annotated[str | None, Field(description="What is said.")]
    message: Annotated[str | None, Field(description="The same, by its other name.")]
    id: Annotated[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")] | None,
        Field(description="The client's own id of the message; chats can be forked at it."),
    ]
    json: str | None
    thinking_steps: list[Any] | None
    steps: list[Any] | None
    tools: dict[str, Any] | list[Any] | None
    createdAt: Any
    updatedAt: Any


History = Annotated[list[ChatMessage], Field(min_length=1)]


class GenerateRequest(TypedDict, total=False):
    """A request for an answer in a stored chat."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    chat_history: Required[History]
    chatId: Annotated[str | None, Field(description="The chat that this goes on with: 24 hex digits; absent = new.")]
    persona: Annotated[str | None, Field(description="Who answers; absent means the chat's own one, or `maya`.")]
    tools: Annotated[
        dict[str, Any] | list[Any] | None,
        Field(description="Accepted; the stream tells that there are none yet."),
    ]
    scope: Literal["internal", "external"] | None
    stream: bool | None
    voice: Annotated[bool | None, Field(description="Whether the answer will be spoken: it is then short.")]
    fastContext: Annotated[
        list[dict[str, Any] | str] | None,
        Field(description="What the answer may draw on; never stored with the chat."),
    ]
    researchMode: Annotated[bool | None, Field(description="Echoed; there is no research yet.")]
    title: Annotated[Title | None, Field(description="The title of a new chat.")]
    source: Annotated[Annotated[str, Field(max_length=128)] | None, Field(description="Where a new chat comes from.")]
    username: Label | None
    phone: Label | None


class DirectRequest(TypedDict, total=False):
    """A request for an answer that is not stored."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    chat_history: Required[History]
    persona: str | None


class SaveRequest(TypedDict):
    """A chat to be stored."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    title: Annotated[str, Field(min_length=1, max_length=256)]
    messages: History


class ForkRequest(TypedDict):
    """A fork: up to a message, which it includes."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    chatId: str
    messageId: Annotated[str, Field(min_length=1, max_length=64)]


class PinRequest(TypedDict):
    """Whether a chat shall be pinned."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    pinned: bool


class PatchRequest(TypedDict, total=False):
    """What of a chat shall be changed: at least one of them."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]
    title: Title
    pinned: bool


GENERATE: TypeAdapter[GenerateRequest] = TypeAdapter(GenerateRequest)
DIRECT: TypeAdapter[DirectRequest] = TypeAdapter(DirectRequest)
SAVE: TypeAdapter[SaveRequest] = TypeAdapter(SaveRequest)
FORK: TypeAdapter[ForkRequest] = TypeAdapter(ForkRequest)
PIN: TypeAdapter[PinRequest] = TypeAdapter(PinRequest)
PATCH: TypeAdapter[PatchRequest] = TypeAdapter(PatchRequest)
REQUESTS: tuple[TypeAdapter[Any], ...] = (GENERATE, DIRECT, SAVE, FORK, PIN, PATCH)
"""All of them, for the documentation."""
