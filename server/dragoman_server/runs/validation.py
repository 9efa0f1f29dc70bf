"""Checks a run's spec against the rules that the contract states and types cannot."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_TOOL, Role
from dragoman.v1.run_pb2 import DISCONNECT_POLICY_DETACH_FOR, DURABILITY_DURABLE, ChatSpec
from dragoman.v1.sampling_pb2 import MODALITY_AUDIO, Sampling
from dragoman.v1.tool_pb2 import ToolMode
from dragoman_server.errors import InvalidRequest, Unimplemented

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.message_pb2 import Message, Part
    from dragoman.v1.run_pb2 import RunSpec
    from dragoman.v1.tool_pb2 import Tool

MAX_REQUEST_ID = 255
MAX_LABELS = 16
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 512
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_DETACH_SECONDS = 24 * 3600

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0, 100),
    "max_output_tokens": (1, 2**31 - 1),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
    "choice_count": (1, MAX_CHOICES),
}
"""Range of each number of the sampling, both ends included."""

_BOUNDS = {Sampling.DESCRIPTOR.fields_by_name[name]: bounds for name, bounds in RANGES.items()}
_TOP_LOGPROBS = Sampling.DESCRIPTOR.fields_by_name["top_logprobs"]

ROLES = frozenset(Role.values()) - {Role.ROLE_UNSPECIFIED}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ASSISTANT_ONLY = frozenset({"reasoning", "refusal", "tool_call"})
INLINE_KINDS = frozenset({"image", "audio", "file"})
CARRIED_JSON = frozenset(
    {"chat_template_kwargs_json", "web_search_options_json", "moderation_json", "prompt_cache_options_json"}
)


class Findings(NamedTuple):
    """What was seen of a request on the way.

    Attributes:
        plain: Whether the spec says nothing beyond what is to be executed.
        has_images: Whether there may be images in the conversation.
    """

    plain: bool
    has_images: bool


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
    """Checks a conversation; returns whether there may be images in it."""
    messages = chat.messages[:]
    if not messages:
        raise _invalid("spec.chat.messages", "is empty: a conversation needs at least one message")
    has_images = False
    for number, message in enumerate(messages):
        has_images |= _check_message(message, number)
    for descriptor, value in chat.ListFields():
        if descriptor in _SIMPLE:
            continue
        if (check := CHAT_CHECKS.get(descriptor.name)) is not None:
            check(chat)
        elif descriptor.name in CARRIED_JSON:
            _check_json_object(f"spec.chat.{descriptor.name}", value)
    return has_images


def _check_modalities(chat: ChatSpec) -> None:
    if MODALITY_AUDIO in chat.modalities and not chat.audio.voice:
        raise _invalid("spec.chat.audio", "is missing: spoken output needs a voice")


def _check_message(message: Message, number: int) -> bool:
    """Checks a message; returns whether there may be images in it."""
    has_images = False
    role = message.role
    if role not in ROLES:
        raise _invalid(f"spec.chat.messages[{number}].role", "is missing or unknown")
    for position, part in enumerate(message.parts[:]):
        kind = part.WhichOneof("kind")
        if kind == "text":
            continue
        where = f"spec.chat.messages[{number}].parts[{position}]"
        if kind is None:
            raise _invalid(where, "has no kind, or one that this server does not know")
        if kind in ASSISTANT_ONLY and role != ROLE_ASSISTANT:
            raise _invalid(where, f"is a {kind}, which only an assistant message may have")
        if (kind == "tool_result") != (role == ROLE_TOOL):
            raise _invalid(where, "must be a tool result in a tool message, and only there")
        _check_part(part, kind, where)
        has_images |= kind in ("image", "tool_result")
    if role == ROLE_TOOL and not any(part.HasField("tool_result") for part in message.parts):
        raise _invalid(f"spec.chat.messages[{number}].parts", "needs a tool result in a tool message")
    return has_images


def _check_part(part: Part, kind: str, where: str) -> None:
    if kind in INLINE_KINDS:
        if not _has_source(part, kind):
            raise _invalid(f"{where}.{kind}", "has no source: give its data or where it is")
        if kind == "image" and part.image.WhichOneof("source") == "data" and not part.image.media_type:
            raise _invalid(f"{where}.image.media_type", "is missing: inline images need one")
    elif kind == "tool_call" and not (part.tool_call.id and part.tool_call.name):
        raise _invalid(f"{where}.tool_call", "needs an id and a name")
    elif kind == "tool_result" and not part.tool_result.call_id:
        raise _invalid(f"{where}.tool_result.call_id", "is missing")


def _has_source(part: Part, kind: str) -> bool:
    if kind == "audio":
        return bool(part.audio.data or part.audio.audio_id)
    return getattr(part, kind).WhichOneof("source") is not None


def _check_sampling(chat: ChatSpec) -> None:
    sampling = chat.sampling
    for descriptor, value in sampling.ListFields():
        bounds = _BOUNDS.get(descriptor)
        if bounds is not None and bounds[0] <= value <= bounds[1] and descriptor is not _TOP_LOGPROBS:
            continue
        name = descriptor.name
        if bounds is not None:
            if not bounds[0] <= value <= bounds[1]:  # NaN fails too
                text = f"is {value:g}, but must be between {bounds[0]:g} and {bounds[1]:g}"
                raise _invalid(f"spec.chat.sampling.{name}", text)
            if name == "top_logprobs" and not sampling.logprobs:
                raise _invalid("spec.chat.sampling.top_logprobs", "needs `logprobs`")
        elif name == "stop":
            if len(value) > MAX_STOPS or not all(value):
                raise _invalid("spec.chat.sampling.stop", f"must be at most {MAX_STOPS} texts, none of them empty")
        elif name == "logit_bias":
            for token, bias in value.items():
                if not (math.isfinite(bias) and -100 <= bias <= 100) or token < 0:
                    raise _invalid("spec.chat.sampling.logit_bias", "must map token ids to values between -100 and 100")


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
