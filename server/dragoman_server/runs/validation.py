"""Checks a run's spec against the rules that the contract states and types cannot."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import DISCONNECT_POLICY_DETACH_FOR, DURABILITY_DURABLE, ChatSpec, RunSpec
from dragoman.v1.sampling_pb2 import MODALITY_AUDIO
from dragoman.v1.tool_pb2 import ToolMode
from dragoman_server.errors import InvalidRequest, Unimplemented
from dragoman_server.messages import check_message
from dragoman_server.providers.base import PlainChat
from dragoman_server.runs.plain import MOST_BYTES, SPEAKERS, read_plain
from dragoman_server.sampling import check_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from google.protobuf.descriptor import FieldDescriptor

    from dragoman.v1.message_pb2 import Message
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


MOST_REMEMBERED = 65_536
"""Characters of a plain conversation that are kept beside the spec, which has them, too."""


class Findings(NamedTuple):
    """What was seen of a request on the way.

    Attributes:
        bare: Whether the spec says nothing beyond what is to be executed.
        has_media: Whether there may be images, audio or files in the conversation.
        chat: What the conversation says, if it is plain.
    """

    bare: bool
    has_media: bool
    chat: PlainChat | None


def check_request(spec: RunSpec, request_id: str, size: int = 0) -> Findings:
    """Checks everything about a request that does not depend on the model.

    Args:
        spec: The spec.
        request_id: The idempotency key, or empty.
        size: Bytes of the spec, at most; 0 if that is not known.

    Raises:
        InvalidRequest: If a rule is broken; `field` names where.
        Unimplemented: If the spec asks for what does not exist yet.
    """
    if len(request_id) > MAX_REQUEST_ID:
        raise _invalid("request_id", f"is longer than {MAX_REQUEST_ID} characters")
    if 0 < size <= MOST_BYTES and (plain := read_plain(spec)) is not None:
        return Findings(True, False, plain)
    fields = spec.ListFields()
    if not fields or fields[0][0] is not _CHAT:
        raise _invalid("spec.chat", "is missing: say what is to be executed")
    bare = len(fields) == 1
    if not bare:
        _check_lifetime(spec)
    return _check_chat(fields[0][1], bare)


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


def _check_chat(chat: ChatSpec, bare: bool) -> Findings:
    """Checks a conversation, and returns what was seen of it."""
    fields = chat.ListFields()  # ordered by number: model, messages, sampling, and what is rarer
    at, model = (1, fields[0][1]) if fields and fields[0][0] is _MODEL else (0, "")
    if at == len(fields) or fields[at][0] is not _MESSAGES:
        raise _invalid("spec.chat.messages", "is empty: a conversation needs at least one message")
    has_media, texts = _check_messages(fields[at][1][:])
    sampling: Sequence[tuple[FieldDescriptor, Any]] = ()
    for descriptor, value in fields[at + 1 :]:
        if descriptor is _SAMPLING:
            sampling = value.ListFields()
            check_fields(sampling)
        else:
            texts = None
            if descriptor not in _SIMPLE:
                _check_field(chat, descriptor.name, value)
    return Findings(bare, has_media, None if texts is None else PlainChat(chat, model, texts, sampling))


def _check_messages(messages: Sequence[Message]) -> tuple[bool, Sequence[tuple[int, str]] | None]:
    """Checks messages.

    Returns:
        Whether there may be more than text in them, and the texts, if each is one plain text and all are short.
    """
    has_media = False
    texts: list[tuple[int, str]] = []
    size = 0
    for number, message in enumerate(messages):
        parts, role = message.parts[:], message.role
        if len(parts) == 1 and role in SPEAKERS and (text := parts[0].text.text):  # the rules ask no more of it
            size += len(text)
            if size <= MOST_REMEMBERED and not message.name and not parts[0].HasField("cache_breakpoint"):
                texts.append((role, text))
        else:
            has_media |= check_message(message, number)
    return has_media, texts if len(texts) == len(messages) else None


def _check_field(chat: ChatSpec, name: str, value: Any) -> None:
    if (check := CHAT_CHECKS.get(name)) is not None:
        check(chat)
    elif name in CARRIED_JSON:
        _check_json_object(f"spec.chat.{name}", value)


def _check_modalities(chat: ChatSpec) -> None:
    if MODALITY_AUDIO in chat.modalities and not chat.audio.voice:
        raise _invalid("spec.chat.audio", "is missing: spoken output needs a voice")


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
    "tools": _check_tools,
    "tool_choice": _check_lone_choice,
    "response_format": _check_response_format,
    "modalities": _check_modalities,
}
"""What is checked when a field is set, beside the messages and the sampling."""

_CHAT = RunSpec.DESCRIPTOR.fields_by_name["chat"]
_MODEL = ChatSpec.DESCRIPTOR.fields_by_name["model"]
_MESSAGES = ChatSpec.DESCRIPTOR.fields_by_name["messages"]
_SAMPLING = ChatSpec.DESCRIPTOR.fields_by_name["sampling"]

_SIMPLE = frozenset(
    field for field in ChatSpec.DESCRIPTOR.fields if field.name not in CHAT_CHECKS and field.name not in CARRIED_JSON
)
"""Fields of which any value will do, or that are checked anyway; by descriptor, which is cheaper than by name."""
