"""From keyword arguments to the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from dragoman.v1.message_pb2 import Message, Part, Role, TextPart, ToolResult
from dragoman.v1.run_pb2 import ChatSpec, DisconnectPolicy, RunSpec
from dragoman.v1.sampling_pb2 import ReasoningEffort, ResponseFormat, Sampling
from dragoman.v1.tool_pb2 import Tool, ToolChoice  # noqa: TC001 - the hints of ChatOptions resolve at runtime

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A conversation: one user text, or messages, oldest first.

A mapping has the keys `role` (`system`, `developer`, `user`, `assistant` or `tool`), `content` (a text, or a sequence
of texts and `Part`s), optionally `name`, and for the role `tool` the `call_id` that it answers. Whatever else a message
can hold is said with a `Message`.
"""

_ROLES = {
    "system": Role.ROLE_SYSTEM,
    "developer": Role.ROLE_DEVELOPER,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
}
_MESSAGE_KEYS = {"role", "content", "name", "call_id"}


class ChatOptions(TypedDict, total=False):
    """How to answer; what is left out is left to the server and the model. The contract documents each field."""

    model: str
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    stop: str | Sequence[str]
    max_output_tokens: int
    logit_bias: Mapping[int, float]
    logprobs: bool
    top_logprobs: int
    choice_count: int
    tools: Sequence[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    response_format: ResponseFormat
    reasoning_effort: ReasoningEffort
    conversation_id: str
    persona: str
    context: Sequence[str]
    labels: Mapping[str, str]
    detach: bool | timedelta
    """Whether the run survives its callers: yes, no, or for a time. Left out, the server decides: not, or for a minute
    if there is a request id."""


_SAMPLING = frozenset(Sampling.DESCRIPTOR.fields_by_name)
_CHAT = frozenset(ChatOptions.__annotations__) - _SAMPLING - {"labels", "detach"}


def run_spec(messages: Messages, options: ChatOptions) -> RunSpec:
    """Builds the request.

    Raises:
        ValueError: If a message or a value has a form that the contract cannot hold; it says which.
        TypeError: If an option does not exist.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    labels, detach = given.pop("labels", None), given.pop("detach", None)
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    if unknown := given.keys() - _SAMPLING - _CHAT:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    chat = ChatSpec(messages=as_messages(messages), **{name: given[name] for name in given.keys() & _CHAT})
    if sampling := {name: given[name] for name in given.keys() & _SAMPLING}:
        chat.sampling.CopyFrom(Sampling(**sampling))
    spec = RunSpec(chat=chat, labels=labels)
    if isinstance(detach, timedelta):
        spec.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR
        spec.detach_ttl.FromTimedelta(detach)
    elif detach is not None:
        policies = (DisconnectPolicy.DISCONNECT_POLICY_CANCEL, DisconnectPolicy.DISCONNECT_POLICY_DETACH)
        spec.disconnect_policy = policies[bool(detach)]
    return spec


def as_messages(messages: Messages) -> list[Message]:
    """Returns messages in the contract's terms.

    Raises:
        ValueError: If one has a form that the contract cannot hold; it says which.
    """
    if isinstance(messages, str):
        return [Message(role=Role.ROLE_USER, parts=[_part(messages)])]
    return [m if isinstance(m, Message) else _message(m, f"messages[{i}]") for i, m in enumerate(messages)]


def _message(given: Mapping[str, Any], where: str) -> Message:
    if unknown := given.keys() - _MESSAGE_KEYS:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}; a Message can say everything")
    role = _ROLES.get(given.get("role", ""))
    if role is None:
        raise ValueError(f"{where}.role: {given.get('role')!r} is none of {', '.join(_ROLES)}")
    content = given.get("content", "")
    parts = [_part(content)] if isinstance(content, str) else [_part(p) for p in content]
    if (role == Role.ROLE_TOOL) != ("call_id" in given):
        raise ValueError(f"{where}.call_id: required with the role 'tool', and only there")
    if role == Role.ROLE_TOOL:
        parts = [Part(tool_result=ToolResult(call_id=given["call_id"], parts=parts))]
    return Message(role=role, parts=parts, name=given.get("name", ""))


def _part(given: str | Part) -> Part:
    return Part(text=TextPart(text=given)) if isinstance(given, str) else given
