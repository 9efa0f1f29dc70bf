"""From the conversation to the API's `systemInstruction` and `contents`."""

from __future__ import annotations

from mimetypes import guess_type
from typing import TYPE_CHECKING, NamedTuple

import orjson

from dragoman.v1.message_pb2 import ImageDetail, Role, ToolKind
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.json_values import base64_text, json_object
from dragoman_server.providers.signatures import unmarked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dragoman.v1.message_pb2 import (
        AudioPart,
        FilePart,
        ImagePart,
        Message,
        Part,
        ReasoningPart,
        ToolCall,
        ToolResult,
    )
    from dragoman_server.providers.json_values import Json

_UNSIGNED = "skip_thought_signature_validator"
"""What stands for the signature of a call that another model made, or whose signature the client did not keep."""

_RESOLUTIONS: Mapping[int, str] = {
    ImageDetail.IMAGE_DETAIL_LOW: "MEDIA_RESOLUTION_LOW",
    ImageDetail.IMAGE_DETAIL_HIGH: "MEDIA_RESOLUTION_HIGH",
}


class Conversation(NamedTuple):
    """A conversation as the API has it.

    Attributes:
        system: Parts of the system instruction.
        contents: The turns.
    """

    system: list[Json]
    contents: list[Json]


class _Context(NamedTuple):
    """What the parts of a conversation need to know.

    Attributes:
        tools: The name of the tool by the id of its call.
        newest: Whether the model is of the families that check signatures and see images at a resolution of choice.
        mark: The provider's mark on its signatures.
    """

    tools: dict[str, str]
    newest: bool
    mark: bytes


def conversation(messages: Iterable[Message], mark: bytes, *, newest: bool) -> Conversation:
    """Returns the conversation in the words of the API.

    Instructions come together in the system instruction, wherever they stand. Messages of one speaker in a row become
    one turn; results of tools are a turn of their own.

    Args:
        messages: The conversation.
        mark: The provider's mark on its signatures.
        newest: Whether the model is of a family that thinks in levels.

    Raises:
        UnsupportedFeature: If the API has no word for something.
        InvalidRequest: If a result answers no call, or arguments are not a JSON object.
    """
    system: list[Json] = []
    contents: list[Json] = []
    context = _Context({}, newest, mark)
    last_role = Role.ROLE_UNSPECIFIED
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        parts: list[Json] = []
        for at, part in enumerate(message.parts):
            parts += _parts(message.role, part, f"{field}.parts[{at}]", context)
        if message.name:
            _name_speaker(parts, message.name)
        match message.role:
            case Role.ROLE_SYSTEM | Role.ROLE_DEVELOPER:
                system += parts
                continue
            case Role.ROLE_USER | Role.ROLE_TOOL:
                speaker = "user"
            case Role.ROLE_ASSISTANT:
                if not parts:  # it had nothing but what another provider hides
                    continue
                speaker = "model"
                if newest:
                    _stand_in(parts)
            case _:
                raise InvalidRequest("the role is missing or unknown", field=f"{field}.role")
        if message.role == last_role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": speaker, "parts": parts})
            last_role = message.role
    return Conversation(system, contents)


def _name_speaker(parts: list[Json], name: str) -> None:
    """Writes the name before the text: the API has no place for it, and the model can tell the speakers apart."""
    first = next((part for part in parts if part.keys() == {"text"}), None)
    if first is not None:
        first["text"] = f"{name}: {first['text']}"


def _stand_in(parts: list[Json]) -> None:
    """Signs the first call of a turn whose calls have no signature: the API refuses it otherwise."""
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in call for call in calls):
        calls[0]["thoughtSignature"] = _UNSIGNED


def _parts(role: int, part: Part, field: str, context: _Context) -> list[Json]:
    """Returns what a part of a message becomes."""
    if part.HasField("cache_breakpoint"):
        raise UnsupportedFeature("this provider caches prefixes by itself", field=f"{field}.cache_breakpoint")
    kind = part.WhichOneof("kind")
    if kind == "text":
        return [{"text": part.text.text}]
    match role, kind:
        case Role.ROLE_USER, "image" | "audio" | "file":
            return [_media(part, field, context)]
        case Role.ROLE_ASSISTANT, "image" | "file":
            return [_media(part, field, context)]
        case Role.ROLE_ASSISTANT, "reasoning":
            return _reasoning(part.reasoning, context.mark)
        case Role.ROLE_ASSISTANT, "refusal":
            return [{"text": part.refusal.text}]  # to this model it is something that it said
        case Role.ROLE_ASSISTANT, "tool_call":
            context.tools[part.tool_call.id] = part.tool_call.name
            return [_call(part.tool_call, f"{field}.tool_call", context.mark)]
        case Role.ROLE_TOOL, "tool_result":
            return [_result(part.tool_result, f"{field}.tool_result", context)]
    raise UnsupportedFeature(f"a part of kind {kind} cannot stand here", field=field)


def _reasoning(reasoning: ReasoningPart, mark: bytes) -> list[Json]:
    """Returns thoughts; a signature alone belongs to a part without text, which is how the API sends it.

    This provider hides no thoughts: hidden ones are another's, and only that one can read them.
    """
    signature = unmarked(reasoning.signature, mark)
    if reasoning.redacted or not (reasoning.text or signature):
        return []
    written: Json = {"text": reasoning.text}
    if reasoning.text:
        written["thought"] = True
    if signature:
        written["thoughtSignature"] = base64_text(signature)
    return [written]


# Media


def _media(part: Part, field: str, context: _Context) -> Json:
    match part.WhichOneof("kind"):
        case "image":
            written = _image(part.image)
            if part.image.detail not in (ImageDetail.IMAGE_DETAIL_UNSPECIFIED, ImageDetail.IMAGE_DETAIL_AUTO):
                level = _RESOLUTIONS.get(part.image.detail)
                if level is None or not context.newest:
                    raise UnsupportedFeature("the model cannot look so closely", field=f"{field}.image.detail")
                written["mediaResolution"] = {"level": level}
            return written
        case "audio":
            return _audio(part.audio, f"{field}.audio")
        case "file":
            return _file(part.file, f"{field}.file")
        case kind:
            raise UnsupportedFeature(f"a part of kind {kind} cannot stand here", field=field)


def _image(image: ImagePart) -> Json:
    if image.HasField("data"):
        return _inline(image.media_type, image.data)
    return _by_address(image.media_type, image.url)


def _audio(audio: AudioPart, field: str) -> Json:
    if audio.audio_id:
        raise UnsupportedFeature("this provider keeps no sound", field=f"{field}.audio_id")
    media_type = audio.format if "/" in audio.format else f"audio/{audio.format}"
    return _inline(media_type, audio.data)


def _file(file: FilePart, field: str) -> Json:
    """Returns a document or a film; its name serves only to tell the type, for the API has no word for it."""
    media_type = file.media_type or (guess_type(file.filename)[0] or "")
    match file.WhichOneof("source"):
        case "data" if not media_type:
            raise InvalidRequest("this provider must know the type of a file", field=f"{field}.media_type")
        case "data":
            return _inline(media_type, file.data)
        case "file_id":
            return _by_address(media_type, file.file_id)
        case _:
            return _by_address(media_type, file.url)


def _inline(media_type: str, data: bytes) -> Json:
    return {"inlineData": {"mimeType": media_type, "data": base64_text(data)}}


def _by_address(media_type: str, address: str) -> Json:
    file: Json = {"fileUri": address}
    if media_type:
        file["mimeType"] = media_type
    return {"fileData": file}


# Tools


def _call(call: ToolCall, field: str, mark: bytes) -> Json:
    if call.kind == ToolKind.TOOL_KIND_CUSTOM:
        raise UnsupportedFeature("this provider knows no tools with free text", field=field)
    function: Json = {"id": call.id, "name": call.name, "args": {}}
    if call.arguments.strip():
        json_object(call.arguments, f"{field}.arguments")
        function["args"] = orjson.Fragment(call.arguments)
    written: Json = {"functionCall": function}
    if signature := unmarked(call.signature, mark):
        written["thoughtSignature"] = base64_text(signature)
    return written


def _result(result: ToolResult, field: str, context: _Context) -> Json:
    name = context.tools.get(result.call_id)
    if name is None:
        raise InvalidRequest("the result answers no call of this conversation", field=f"{field}.call_id")
    texts: list[str] = []
    media: list[Json] = []
    for at, part in enumerate(result.parts):
        if part.HasField("text"):
            texts.append(part.text.text)
        else:
            media.append(_media(part, f"{field}.parts[{at}]", context))
    response: Json = {"id": result.call_id, "name": name, "response": _response(texts, is_error=result.is_error)}
    if media:
        response["parts"] = media
    return {"functionResponse": response}


def _response(texts: list[str], *, is_error: bool) -> Json | orjson.Fragment:
    """Returns a result as the object that the API wants: an object as it is, anything else under a name."""
    value: object = texts[0] if len(texts) == 1 else texts
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            pass  # a text that only begins so
        else:
            value = orjson.Fragment(value)
            if isinstance(parsed, dict) and not is_error:
                return value
    return {"error" if is_error else "output": value if texts else ""}
