"""Translates the contents of a request into messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import TOOL_KIND_FUNCTION, ImageDetail, Message, Part, Role
from dragoman_edge.dialects.gemini.request import invalid, missing
from dragoman_edge.dialects.gemini.schemas import snake

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_edge.dialects.gemini.request import Json

_ROLES = {"user": Role.ROLE_USER, "model": Role.ROLE_ASSISTANT, "function": Role.ROLE_USER}
_DETAILS = {
    "MEDIA_RESOLUTION_LOW": ImageDetail.IMAGE_DETAIL_LOW,
    "MEDIA_RESOLUTION_HIGH": ImageDetail.IMAGE_DETAIL_HIGH,
    "MEDIA_RESOLUTION_ULTRA_HIGH": ImageDetail.IMAGE_DETAIL_ORIGINAL,
}
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "x-m4a": "m4a", "x-flac": "flac"}
_SCHEMES = ("http://", "https://", "gs://")
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")


def add_system(spec: ChatSpec, instruction: Json) -> None:
    """Adds the standing instructions, which come before the conversation.

    Raises:
        EdgeError: If they are not text.
    """
    message = spec.messages.add(role=Role.ROLE_SYSTEM)
    for index, part in enumerate(instruction.get("parts", ())):
        where = f"system_instruction.parts[{index}]"
        if "text" not in part:
            raise invalid(where, f"'{where}' is not a text: system instructions are texts.")
        message.parts.add().text.text = part["text"]
    if not message.parts:
        raise missing("system_instruction.parts")


def add_contents(spec: ChatSpec, contents: list[Json], resolution: str = "") -> None:
    """Adds the conversation.

    Args:
        spec: Takes the messages.
        contents: The checked contents.
        resolution: How closely images are looked at that do not say themselves.

    Raises:
        EdgeError: If a content or part makes no sense.
    """
    if not contents:
        raise missing("contents")
    calls = _Calls()
    for index, content in enumerate(contents):
        _add_content(spec, content, f"contents[{index}]", index, calls, _DETAILS.get(resolution))


class _Calls:
    """The calls of functions that wait for their results. Ids of calls that have none are made from their place."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}

    def begin(self, call: Json, made_up: str) -> str:
        """Returns the id of a call."""
        call_id = call.get("id") or made_up
        self._waiting[call_id] = call["name"]
        return call_id

    def end(self, response: Json, path: str) -> str:
        """Returns the id of the call that a result belongs to: the one it names, or else the oldest of that name.

        Raises:
            EdgeError: If no such call waits.
        """
        name, given = response["name"], response.get("id")
        found = next((call_id for call_id, called in self._waiting.items() if called == name), None)
        if given in self._waiting:
            found = given
        if found is None:
            raise invalid(path, f"'{path}' answers no call: no function call of {name[:100]!r} waits for its result.")
        del self._waiting[found]
        return found


def _add_content(
    spec: ChatSpec, content: Json, path: str, index: int, calls: _Calls, detail: ImageDetail | None
) -> None:
    """Adds a content: one message, and one more for each result of a function within it."""
    role = _ROLES.get(content.get("role") or "user")
    if role is None:
        raise invalid(f"{path}.role", "Please use a valid role: user, model.")
    parts = content.get("parts")
    if not parts:
        raise missing(f"{path}.parts")
    message: Message | None = None
    for number, part in enumerate(parts):
        where = f"{path}.parts[{number}]"
        kind = _kind_of(part, where)
        if kind == "functionResponse":
            if role == Role.ROLE_ASSISTANT:
                raise invalid(where, f"'{where}' is the result of a function, which the role 'model' cannot give.")
            _add_result(spec, part["functionResponse"], f"{where}.function_response", calls)
            message = None  # what follows is said after it
            continue
        if message is None:
            message = spec.messages.add(role=role)
        if role == Role.ROLE_ASSISTANT:
            _add_said(message, part, kind, where, calls, f"call_{index}_{number}")
        else:
            _add_asked(message, part, kind, where, detail)


def _kind_of(part: Json, path: str) -> str:
    """Returns which of the kinds of data a part has; one with nothing but a signature counts as an empty text."""
    kinds = [name for name in _DATA if name in part]
    if len(kinds) > 1:
        names = " and ".join(snake(name) for name in kinds)
        raise invalid(path, f"'{path}' has {names}: a part has one kind of data.")
    if not kinds and not part.get("thoughtSignature"):
        raise invalid(path, f"'{path}' must have data: one of {', '.join(snake(name) for name in _DATA)}.")
    return kinds[0] if kinds else "text"


def _add_asked(message: Message, part: Json, kind: str, path: str, detail: ImageDetail | None) -> None:
    """Adds what the client says."""
    for name in ("thought", "thoughtSignature"):
        if part.get(name):
            raise invalid(f"{path}.{snake(name)}", f"'{path}.{snake(name)}' belongs into contents of the role 'model'.")
    if kind == "functionCall":
        raise invalid(f"{path}.function_call", "Function calls belong into contents of the role 'model'.")
    added = _ADD[kind](message.parts.add, part[kind], f"{path}.{snake(kind)}")
    level = _DETAILS.get(part.get("mediaResolution", {}).get("level", ""), detail)
    if level is not None and added.HasField("image"):
        added.image.detail = level


def _add_said(message: Message, part: Json, kind: str, path: str, calls: _Calls, made_up: str) -> None:
    """Adds what the model said earlier."""
    signature = part.get("thoughtSignature", b"")
    if kind == "functionCall":
        _add_call(message, part["functionCall"], f"{path}.function_call", calls, made_up).signature = signature
        return
    if part.get("thought") and kind != "text":
        raise invalid(f"{path}.thought", f"'{path}' is a thought, but not a text.")
    if part.get("thought"):
        message.parts.add().reasoning.text = part.get("text", "")
        message.parts[-1].reasoning.signature = signature
        return
    if kind in part:
        _ADD[kind](message.parts.add, part[kind], f"{path}.{snake(kind)}")
    if signature:
        message.parts.add().reasoning.signature = signature


def _add_call(message: Message, call: Json, path: str, calls: _Calls, made_up: str) -> Any:
    if not call.get("name"):
        raise missing(f"{path}.name")
    made = message.parts.add().tool_call
    made.id, made.name, made.kind = calls.begin(call, made_up), call["name"], TOOL_KIND_FUNCTION
    made.arguments = orjson.dumps(call.get("args", {})).decode()
    return made


def _add_result(spec: ChatSpec, response: Json, path: str, calls: _Calls) -> None:
    if not response.get("name"):
        raise missing(f"{path}.name")
    result = spec.messages.add(role=Role.ROLE_TOOL).parts.add().tool_result
    result.call_id = calls.end(response, path)
    said = response.get("response", {})
    result.is_error = "error" in said
    result.parts.add().text.text = orjson.dumps(said).decode()
    for index, part in enumerate(response.get("parts", ())):
        where = f"{path}.parts[{index}]"
        if not part:
            raise invalid(where, f"'{where}' must have data: inline_data or file_data.")
        for kind, value in part.items():
            _ADD[kind](result.parts.add, value, f"{where}.{snake(kind)}")


def _add_text(add: Callable[[], Part], text: str, _path: str) -> Part:
    part = add()
    part.text.text = text
    return part


def _add_inline(add: Callable[[], Part], blob: Json, path: str) -> Part:
    media_type, data = blob.get("mimeType", "").strip().lower(), blob.get("data")
    if not media_type:
        raise missing(f"{path}.mime_type")
    if not data:
        raise missing(f"{path}.data")
    part = add()
    main, _, rest = media_type.partition("/")
    if main == "image":
        part.image.data, part.image.media_type = data, media_type
    elif main == "audio":
        subtype = rest.partition(";")[0]
        part.audio.data, part.audio.format = data, _AUDIO_FORMATS.get(subtype, subtype)
    else:
        part.file.data, part.file.media_type = data, media_type
        part.file.filename = blob.get("displayName", "")
    return part


def _add_file(add: Callable[[], Part], file: Json, path: str) -> Part:
    uri, media_type = file.get("fileUri", ""), file.get("mimeType", "").strip().lower()
    if not uri:
        raise missing(f"{path}.file_uri")
    if not uri.lower().startswith(_SCHEMES):
        raise invalid(f"{path}.file_uri", f"'{path}.file_uri' must be an address that begins with {_SCHEMES}.")
    part = add()
    if media_type.startswith("image/"):
        part.image.url, part.image.media_type = uri, media_type
    else:
        part.file.url, part.file.media_type = uri, media_type
        part.file.filename = file.get("displayName", "")
    return part


_ADD: dict[str, Callable[[Callable[[], Part], Any, str], Part]] = {
    "text": _add_text,
    "inlineData": _add_inline,
    "fileData": _add_file,
}
