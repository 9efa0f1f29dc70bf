"""From the messages of the contract to the turns of the API.

The API knows a system prompt apart from the conversation, and turns of user and assistant. Results of tools stand in
the user's turn, before everything else in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import ImageDetail, Role, ToolKind
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.json_values import base64_text
from dragoman_server.providers.signatures import unmarked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.message_pb2 import FilePart, ImagePart, Message, Part, ReasoningPart, ToolCall, ToolResult
    from dragoman_server.providers.json_values import Json

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TTLS = frozenset({"5m", "1h"})
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")
_SIGNATURE = re.compile(rb"[A-Za-z0-9+/=_-]+")


def turns_of(messages: Iterable[Message], mark: bytes) -> tuple[list[Json], list[Json]]:
    """Returns the blocks of the system prompt, and the turns.

    Args:
        messages: The conversation.
        mark: The provider's mark on its signatures.

    Raises:
        UnsupportedFeature: If a part has no counterpart.
        InvalidRequest: If a part stands where it cannot, or the arguments of a call are not a JSON object.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        match message.role:
            case Role.ROLE_SYSTEM | Role.ROLE_DEVELOPER:
                system += _system_blocks(message, field)
            case Role.ROLE_USER:
                _turn(turns, "user").extend(_user_blocks(message, field))
            case Role.ROLE_ASSISTANT:
                _turn(turns, "assistant").extend(_assistant_blocks(message, field, mark))
            case Role.ROLE_TOOL:
                content = _turn(turns, "user")
                results = sum(block["type"] == "tool_result" for block in content)
                content[results:results] = _results(message.parts, f"{field}.parts")
            case _:
                raise InvalidRequest("the role is missing or unknown", field=f"{field}.role")
    # A turn without content is refused; one whose every part says nothing has nothing to say.
    return system, [_short(turn) for turn in turns if turn["content"]]


def _turn(turns: list[Json], role: str) -> list[Json]:
    """Returns the content of the last turn, if it has that role, or of a new one: not every server joins turns."""
    if turns and turns[-1]["role"] == role:
        content: list[Json] = turns[-1]["content"]
        return content
    turns.append({"role": role, "content": (content := [])})
    return content


def _short(turn: Json) -> Json:
    content = turn["content"]
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return {"role": turn["role"], "content": content[0]["text"]}
    return turn


# Parts


def _system_blocks(message: Message, field: str) -> list[Json]:
    for index, part in enumerate(message.parts):
        if not part.HasField("text"):
            raise UnsupportedFeature("instructions consist of text", field=f"{field}.parts[{index}]")
    return _user_blocks(message, field)


def _user_blocks(message: Message, field: str) -> list[Json]:
    blocks = _blocks(message.parts, f"{field}.parts")
    _name_speaker(blocks, message.name)
    return blocks


def _name_speaker(blocks: list[Json], name: str) -> None:
    """Writes the name before the text: the API has no place for it, and the model can tell the speakers apart."""
    if name:
        first = next((block for block in blocks if block["type"] == "text"), None)
        if first is not None:
            first["text"] = f"{name}: {first['text']}"


def _assistant_blocks(message: Message, field: str, mark: bytes) -> list[Json]:
    blocks: list[Json] = []
    for index, part in enumerate(message.parts):
        at = f"{field}.parts[{index}]"
        match part.WhichOneof("kind"):
            case "reasoning":
                blocks += _thoughts(part.reasoning, mark)
            case "tool_call":
                blocks.append(_marked(_tool_use(part.tool_call, f"{at}.tool_call"), part, at))
            case "refusal":
                if part.refusal.text.strip():
                    blocks.append({"type": "text", "text": part.refusal.text})
            case _:
                blocks += _blocks([part], at, single=True)
    _name_speaker(blocks, message.name)
    return blocks


def _blocks(parts: Iterable[Part], field: str, *, single: bool = False) -> list[Json]:
    blocks: list[Json] = []
    for index, part in enumerate(parts):
        at = field if single else f"{field}[{index}]"
        match part.WhichOneof("kind"):
            case "text":
                if not part.text.text.strip():
                    continue  # says nothing, and is refused
                block: Json = {"type": "text", "text": part.text.text}
            case "image":
                block = {"type": "image", "source": _image_source(part.image, at)}
            case "file":
                block = _document(part.file, at)
            case kind:
                raise UnsupportedFeature(f"a part of kind {kind} cannot stand here", field=at)
        blocks.append(_marked(block, part, at))
    return blocks


def _marked(block: Json, part: Part, field: str) -> Json:
    if part.HasField("cache_breakpoint"):
        block["cache_control"] = cache_control(part.cache_breakpoint.ttl, f"{field}.cache_breakpoint.ttl")
    return block


def cache_control(ttl: str, field: str) -> Json:
    """Returns the mark of a prefix to cache.

    Raises:
        UnsupportedFeature: If the provider does not keep prefixes for that long.
    """
    if not ttl:
        return {"type": "ephemeral"}
    if ttl not in _TTLS:
        raise UnsupportedFeature("this provider keeps prefixes for 5m or 1h", field=field)
    return {"type": "ephemeral", "ttl": ttl}


def _image_source(image: ImagePart, field: str) -> Json:
    if image.detail not in (ImageDetail.IMAGE_DETAIL_UNSPECIFIED, ImageDetail.IMAGE_DETAIL_AUTO):
        raise UnsupportedFeature("this provider chooses the detail of images by itself", field=f"{field}.image.detail")
    if not image.HasField("data"):
        return {"type": "url", "url": image.url}
    return _inline(image.media_type, image.data, _IMAGES, f"{field}.image.media_type")


def _document(file: FilePart, field: str) -> Json:
    kind = file.media_type.partition(";")[0].strip().lower()
    match file.WhichOneof("source"):
        case "url":
            source: Json = {"type": "url", "url": file.url}
        case "file_id":
            source = {"type": "file", "file_id": file.file_id}
        case "data" if kind.startswith("text/"):
            try:
                source = {"type": "text", "media_type": "text/plain", "data": file.data.decode()}
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"the text is not UTF-8: {error}", field=f"{field}.file.data") from error
        case "data":
            if not kind and file.data.startswith(b"%PDF-"):
                kind = "application/pdf"
            source = _inline(kind, file.data, {"application/pdf", *_IMAGES}, f"{field}.file.media_type")
        case _:
            raise InvalidRequest("the file is missing", field=f"{field}.file")
    if kind in _IMAGES:
        return {"type": "image", "source": source}
    document: Json = {"type": "document", "source": source}
    if file.filename:
        document["title"] = file.filename
    return document


def _inline(kind: str, data: bytes, known: Iterable[str], field: str) -> Json:
    kind = {"image/jpg": "image/jpeg"}.get(kind, kind)
    if kind not in known:
        raise UnsupportedFeature(f"this provider reads {', '.join(sorted(known))} here, not {kind!r}", field=field)
    return {"type": "base64", "media_type": kind, "data": base64_text(data)}


# Thoughts, calls and results


def own_signature(reasoning: ReasoningPart, mark: bytes) -> str:
    """Returns the signature of past thoughts, nothing if they are not this provider's: it would refuse the request."""
    signature = unmarked(reasoning.signature, mark)
    return signature.decode("ascii") if _SIGNATURE.fullmatch(signature) else ""


def _thoughts(reasoning: ReasoningPart, mark: bytes) -> list[Json]:
    """Returns past thoughts as they came, or nothing: without a signature of its own, the API takes none."""
    signature = own_signature(reasoning, mark)
    if not signature:
        return []
    if reasoning.redacted:
        return [{"type": "redacted_thinking", "data": signature}]
    return [{"type": "thinking", "thinking": reasoning.text, "signature": signature}]


def _tool_use(call: ToolCall, field: str) -> Json:
    if call.kind == ToolKind.TOOL_KIND_CUSTOM:
        raise UnsupportedFeature("this provider's tools have JSON arguments", field=field)
    arguments: Any = {}
    if call.arguments.strip():
        try:
            arguments = orjson.Fragment(call.arguments) if isinstance(orjson.loads(call.arguments), dict) else None
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"the arguments are not JSON: {error}", field=f"{field}.arguments") from error
        if arguments is None:
            raise InvalidRequest("the arguments are not a JSON object", field=f"{field}.arguments")
    return {"type": "tool_use", "id": _call_id(call.id), "name": call.name, "input": arguments}


def _call_id(call_id: str) -> str:
    """Returns the id in the letters that the API allows; other providers use more. Equal ids stay equal."""
    return _NOT_IN_IDS.sub(lambda found: f"_{ord(found[0]):x}_", call_id)


def _results(parts: Iterable[Part], field: str) -> list[Json]:
    written = []
    for index, part in enumerate(parts):
        at = f"{field}[{index}]"
        if not part.HasField("tool_result"):
            raise InvalidRequest("a tool message consists of tool results", field=at)
        written.append(_marked(_tool_result(part.tool_result, f"{at}.tool_result"), part, at))
    return written


def _tool_result(result: ToolResult, field: str) -> Json:
    written: Json = {"type": "tool_result", "tool_use_id": _call_id(result.call_id)}
    content = _blocks(result.parts, f"{field}.parts")
    if content:
        single = len(content) == 1 and content[0].keys() == {"type", "text"}
        written["content"] = content[0]["text"] if single else content
    if result.is_error:
        written["is_error"] = True
    return written
