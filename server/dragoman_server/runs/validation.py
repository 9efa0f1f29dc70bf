"""Checks a run's spec against the rules that the contract states and types cannot."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import DISCONNECT_POLICY_DETACH_FOR, DURABILITY_DURABLE, ChatSpec
from dragoman.v1.sampling_pb2 import MODALITY_AUDIO
from dragoman.v1.tool_pb2 import ToolMode
from dragoman_server.errors import InvalidRequest, Unimplemented
from dragoman_server.messages import check_message
from dragoman_server.sampling import check_sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.run_pb2 import RunSpec
    from dragoman.v1.tool_pb2 import Tool

MAX_REQUEST_ID = 255
MAX_LABELS = 16
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 512
MAX_DETACH_SECONDS = 24 * 3600

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CARRIED_JSON = frozenset(
    {"chat_template_kwargs_json", "web_search_options_json", "moderation_json", "prompt_cache_options_json"}
)


class Findings(NamedTuple):
    """What was seen of a request on the way.

    Attributes:
        plain: Whether the spec says nothing beyond what is to be executed.
        has_media: Whether there may be images, audio or files in the conversation.
    """

    plain: bool
    has_media: bool


def check_request(spec: RunSpec, request_id: str) -> Findings:
    """Checks everything about a request that does not depend on the model.

    Raises:
        InvalidRequest: If a rule is broken; `field` names where.
        Unimplemented: If the spec asks for what does not exist yet.
    """
    if len(request_id) > MAX_REQUEST_ID:
        raise _invalid("request_id", f"is longer than {MAX_REQUEST_ID} characters")
    fields = spec.ListFields()
    if not fields or fields[0][0].name != "chat":
        raise _invalid("spec.chat", "is missing: say what is to be executed")
    if len(fields) > 1:
        _check_lifetime(spec)
    return Findings(len(fields) == 1, _check_chat(fields[0][1]))


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)


def _check_lifetime(spec: RunSpec) -> None:
    if spec.durability == DURABILITY_DURABLE:
        raise Unimplemented("durable runs do not exist yet; leave `spec.durability` unset", field="spec.durability")
    if spec.disconnect_policy == DISCONNECT_POLICY_DETACH_FOR:
        if not 0 < spec.detach_ttl.ToTimedelta().total_seconds() <= MAX_DETACH_SECONDS:
            raise _invalid("spec.detach_ttl", f"must be more than 0 and at most {MAX_DETACH_SECONDS} s with DETACH_FOR")
    elif spec.HasField("detach_ttl"):
        raise _invalid("spec.detach_ttl", "has no meaning without the disconnect policy DETACH_FOR")
    if spec.HasField("timeout") and spec.timeout.ToTimedelta().total_seconds() <= 0:
        raise _invalid("spec.timeout", "must be more than 0")
    if spec.labels:
        if len(spec.labels) > MAX_LABELS:
            raise _invalid("spec.labels", f"has more than {MAX_LABELS} pairs")
        for key, value in spec.labels.items():
            if not 0 < len(key) <= MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE:
                raise _invalid(
                    "spec.labels",
                    f"needs keys of 1 to {MAX_LABEL_KEY} and values of at most {MAX_LABEL_VALUE} characters",
                )


def _check_chat(chat: ChatSpec) -> bool:
    """Checks a conversation; returns whether there may be images, audio or files in it."""
    messages = chat.messages[:]
    if not messages:
        raise _invalid("spec.chat.messages", "is empty: a conversation needs at least one message")
    has_media = False
    for number, message in enumerate(messages):
        has_media |= check_message(message, number)
    for descriptor, value in chat.ListFields():
        if descriptor in _SIMPLE:
            continue
        if (check := CHAT_CHECKS.get(descriptor.name)) is not None:
            check(chat)
        elif descriptor.name in CARRIED_JSON:
            _check_json_object(f"spec.chat.{descriptor.name}", value)
    return has_media


def _check_modalities(chat: ChatSpec) -> None:
    if MODALITY_AUDIO in chat.modalities and not chat.audio.voice:
        raise _invalid("spec.chat.audio", "is missing: spoken output needs a voice")


def _check_sampling(chat: ChatSpec) -> None:
    check_sampling(chat.sampling)


def _check_lone_choice(chat: ChatSpec) -> None:
    if not chat.tools:
        _check_tools(chat)


def _check_tools(chat: ChatSpec) -> None:
    names: dict[str, bool] = {}  # whether it is a custom tool
    for number, tool in enumerate(chat.tools):
        kind = tool.WhichOneof("kind")
        where = f"spec.chat.tools[{number}]"
        if kind is None:
            raise _invalid(where, "has no kind, or one that this server does not know")
        name = _tool_name(tool, where)
        if name in names:
            raise _invalid(f"{where}.{kind}.name", f"is `{name}` again: names must be unique")
        names[name] = kind == "custom"
        if kind == "function" and tool.function.parameters_json:
            _check_json_object(f"{where}.function.parameters_json", tool.function.parameters_json)
    choice = chat.tool_choice
    match choice.WhichOneof("kind"):
        case "mode" if choice.mode == ToolMode.TOOL_MODE_REQUIRED and not names:
            raise _invalid("spec.chat.tool_choice", "requires a tool, but there are none")
        case "tool" if choice.tool.name not in names:
            raise _invalid("spec.chat.tool_choice.tool.name", f"is `{choice.tool.name}`, which is none of the tools")
        case "allowed":
            for allowed in choice.allowed.tools:
                if allowed.name not in names:
                    text = f"names `{allowed.name}`, which is none of the tools"
                    raise _invalid("spec.chat.tool_choice.allowed.tools", text)


def _tool_name(tool: Tool, where: str) -> str:
    name = tool.function.name or tool.custom.name
    if not NAME.fullmatch(name):
        kind = tool.WhichOneof("kind")
        raise _invalid(f"{where}.{kind}.name", "must be 1 to 64 characters of a-z, A-Z, 0-9, _ and -")
    return name


def _check_response_format(chat: ChatSpec) -> None:
    response_format = chat.response_format
    if response_format.WhichOneof("kind") == "json_schema":
        schema = response_format.json_schema
        if not NAME.fullmatch(schema.name):
            field = "spec.chat.response_format.json_schema.name"
            raise _invalid(field, "must be 1 to 64 characters of a-z, A-Z, 0-9, _ and -")
        if schema.schema_json:
            _check_json_object("spec.chat.response_format.json_schema.schema_json", schema.schema_json)


def _check_json_object(field: str, text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"`{field}` is not JSON: {error}", field=field, reason=Reason.INVALID_REQUEST) from None
    if not isinstance(value, dict):
        raise _invalid(field, "must be a JSON object")


CHAT_CHECKS: dict[str, Callable[[ChatSpec], None]] = {
    "sampling": _check_sampling,
    "tools": _check_tools,
    "tool_choice": _check_lone_choice,
    "response_format": _check_response_format,
    "modalities": _check_modalities,
}
"""What is checked when a field is set; messages are always."""

_SIMPLE = frozenset(
    field for field in ChatSpec.DESCRIPTOR.fields if field.name not in CHAT_CHECKS and field.name not in CARRIED_JSON
)
"""Fields of which any value will do, or that are checked anyway; by descriptor, which is cheaper than by name."""
