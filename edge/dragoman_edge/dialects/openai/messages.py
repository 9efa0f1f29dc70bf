"""Translates the messages of a request. Base64 is decoded here, once."""

from __future__ import annotations

import binascii
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import TOOL_KIND_CUSTOM, TOOL_KIND_FUNCTION, ImageDetail, Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.wire import number_tag, tag, varint
from dragoman_edge.dialects.openai.request import invalid, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman_edge.dialects.openai import schemas

_ROLES = {
    "system": Role.ROLE_SYSTEM,
    "developer": Role.ROLE_DEVELOPER,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
    "function": Role.ROLE_TOOL,
}
_DETAILS = {
    "auto": ImageDetail.IMAGE_DETAIL_AUTO,
    "low": ImageDetail.IMAGE_DETAIL_LOW,
    "high": ImageDetail.IMAGE_DETAIL_HIGH,
    "original": ImageDetail.IMAGE_DETAIL_ORIGINAL,
}


_URL_SAFE = str.maketrans("-_", "+/")
"""Signatures are taken in either alphabet of base64, as by Google."""

_MESSAGES = tag(ChatSpec, "messages")
_ROLE = number_tag(Message, "role")
_TO_TEXT = tag(TextPart, "text"), tag(Part, "text"), tag(Message, "parts")
"""What encloses a text in a message, from the inside."""
SHORT = 65_536
"""Characters of a text up to which its wire form is worth the copies that it takes."""


def add_messages(spec: ChatSpec, messages: Iterable[schemas.Message]) -> None:
    """Adds the messages of a request to a spec.

    A role and a short text, as most messages are, are merged in their wire form: that costs a fraction of filling
    three nested messages in.

    Raises:
        EdgeError: If base64 is broken, a message says nothing, or a function's answer has no call.
    """
    function_calls: dict[str, str] = {}
    wire: list[bytes] = []
    for index, message in enumerate(messages):
        # With the role, the content is all that a message of two members has.
        if len(message) == 2 and isinstance(content := message.get("content"), str) and len(content) <= SHORT:
            text = content.encode()
            wire += text_head(message["role"], len(text)), text
            continue
        if wire:  # what came before it, first
            spec.MergeFromString(b"".join(wire))
            wire.clear()
        add_message(spec.messages.add(), message, index, function_calls)
    if wire:
        spec.MergeFromString(b"".join(wire))


@lru_cache(maxsize=4096)
def text_head(role: str, size: int) -> bytes:
    """Returns what stands before the text of a message of a spec, by the text's size in bytes."""
    head = b""
    for field in _TO_TEXT:
        head = field + varint(len(head) + size) + head
    head = _ROLE + varint(_ROLES[role]) + head
    return _MESSAGES + varint(len(head) + size) + head


def add_message(target: Message, message: schemas.Message, index: int, function_calls: dict[str, str]) -> None:
    """Fills an empty message.

    Args:
        target: The message to fill.
        message: What the request says. It has been validated.
        index: Its place among the messages of the request.
        function_calls: The ids of the deprecated function calls so far, by the functions' names.

    Raises:
        EdgeError: If base64 is broken, the message says nothing, or a function's answer has no call.
    """
    target.role = _ROLES[message["role"]]
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str):
        target.parts.add().text.text = content
    elif message["role"] == "assistant":
        _add_assistant(target, message, f"messages[{index}]", f"call_{index}", function_calls)
    elif message["role"] == "tool":
        result = target.parts.add().tool_result
        result.call_id = message["tool_call_id"]
        add_content(result.parts.add, content, f"messages[{index}].content")
    elif message["role"] == "function":
        _add_function_answer(target, message, f"messages[{index}]", function_calls)
    else:
        add_content(target.parts.add, content, f"messages[{index}].content")
        if name := message.get("name"):
            target.name = name


def add_content(add: Callable[[], Part], content: Any, param: str) -> None:
    """Adds a text, or the parts of a list, wherever `add` puts parts. It has been validated.

    Raises:
        EdgeError: If base64 is broken.
    """
    if isinstance(content, str):
        add().text.text = content
        return
    for index, part in enumerate(content):
        target = add()
        _ADD[part["type"]](target, part, f"{param}[{index}]")
        if mark := part.get("prompt_cache_breakpoint"):
            target.cache_breakpoint.SetInParent()
            target.cache_breakpoint.ttl = mark.get("ttl") or ""


def _add_assistant(
    target: Message, message: schemas.AssistantMessage, param: str, call_id: str, function_calls: dict[str, str]
) -> None:
    """Adds what the model said. The id of a deprecated function call, which has none, is made from its place."""
    if reasoning := message.get("reasoning_content"):
        target.parts.add().reasoning.text = reasoning
    content = message.get("content")
    if content is not None:
        add_content(target.parts.add, content, f"{param}.content")
    if refusal := message.get("refusal"):
        target.parts.add().refusal.text = refusal
    if audio := message.get("audio"):
        target.parts.add().audio.audio_id = audio["id"]
    for number, call in enumerate(message.get("tool_calls") or ()):
        _add_tool_call(target, call, f"{param}.tool_calls[{number}]")
    if (function := message.get("function_call")) is not None:
        if message.get("tool_calls"):
            raise invalid(
                f"{param}.function_call", "'function_call' and 'tool_calls' must not be used at the same time."
            )
        made = target.parts.add().tool_call
        made.id, made.name, made.arguments = call_id, function["name"], function["arguments"]
        made.kind = TOOL_KIND_FUNCTION
        function_calls[function["name"]] = call_id
    if name := message.get("name"):
        target.name = name
    if not target.parts:
        raise missing(f"{param}.content", f"'{param}' says nothing: it needs 'content', a refusal or a call.")


def _add_tool_call(target: Message, call: schemas.ToolCall, param: str) -> None:
    made = target.parts.add().tool_call
    made.id = call["id"]
    if call["type"] == "function":
        made.kind = TOOL_KIND_FUNCTION
        made.name, made.arguments = call["function"]["name"], call["function"]["arguments"]
    else:
        made.kind = TOOL_KIND_CUSTOM
        made.name, made.arguments = call["custom"]["name"], call["custom"]["input"]
    if extra := call.get("extra_content"):
        signature = extra["google"]["thought_signature"].translate(_URL_SAFE)
        made.signature = _from_base64(signature, f"{param}.extra_content.google.thought_signature")


def _add_function_answer(
    target: Message, message: schemas.FunctionMessage, param: str, function_calls: dict[str, str]
) -> None:
    call_id = function_calls.get(message["name"])
    if call_id is None:
        raise invalid(f"{param}.name", f"No earlier assistant message calls the function {message['name']!r}.")
    result = target.parts.add().tool_result
    result.call_id = call_id
    result.parts.add().text.text = message["content"] or ""


def _add_text_part(target: Part, part: Any, _param: str) -> None:
    target.text.text = part["text"]


def _add_refusal_part(target: Part, part: Any, _param: str) -> None:
    target.refusal.text = part["refusal"]


def _add_image_part(target: Part, part: Any, param: str) -> None:
    image, url = target.image, part["image_url"]["url"]
    where = f"{param}.image_url.url"
    if url[:5].lower() == "data:":
        image.media_type, image.data = _from_data_uri(url, where)
        if not image.media_type.startswith("image/"):
            raise invalid(where, f"'{where}' is a data URI, but not of an image.", "invalid_image_url")
    elif url[:8].lower().startswith(("http://", "https://")):
        image.url = url
    else:
        raise invalid(where, f"'{where}' must be an http or https address, or a data URI.", "invalid_image_url")
    if detail := part["image_url"].get("detail"):
        image.detail = _DETAILS[detail]


def _add_audio_part(target: Part, part: Any, param: str) -> None:
    audio = part["input_audio"]
    target.audio.data = _from_base64(audio["data"], f"{param}.input_audio.data")
    target.audio.format = audio["format"]


def _add_file_part(target: Part, part: Any, param: str) -> None:
    given = part["file"]
    data, file_id = given.get("file_data"), given.get("file_id")
    if (data is None) == (file_id is None):
        raise invalid(f"{param}.file", f"'{param}.file' needs exactly one of 'file_data' and 'file_id'.")
    if file_id is not None:
        target.file.file_id = file_id
    elif data[:5].lower() == "data:":
        target.file.media_type, target.file.data = _from_data_uri(data, f"{param}.file.file_data")
    else:
        target.file.data = _from_base64(data, f"{param}.file.file_data")
    if filename := given.get("filename"):
        target.file.filename = filename


_ADD: dict[str, Callable[[Part, Any, str], None]] = {
    "text": _add_text_part,
    "refusal": _add_refusal_part,
    "image_url": _add_image_part,
    "input_audio": _add_audio_part,
    "file": _add_file_part,
}


def _from_data_uri(uri: str, param: str) -> tuple[str, bytes]:
    """Returns the media type and the bytes of a `data:` URI."""
    head, comma, data = uri.partition(",")
    media_type, *parameters = head[5:].split(";")
    if not comma or not parameters or parameters[-1].strip().lower() != "base64":
        raise invalid(
            param, f"'{param}' must be a data URI in base64: data:<media type>;base64,<data>.", "invalid_base64"
        )
    return media_type.strip().lower(), _from_base64(data, param)


def _from_base64(data: str, param: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(data.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError are both
        raise invalid(param, f"'{param}' is not valid base64.", "invalid_base64") from None
    if not decoded:
        raise invalid(param, f"'{param}' is empty.", "invalid_base64")
    return decoded
