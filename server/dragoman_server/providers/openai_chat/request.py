"""From the contract to the JSON of a chat completion request.

Only fields that are set are visited, each by a function of its own; a field that none of them knows is refused, so that
a new field of the contract can never be dropped in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import ImageDetail, Role, ToolKind
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Modality, ReasoningEffort, Sampling, Verbosity
from dragoman.v1.tool_pb2 import GrammarSyntax, ToolMode
from dragoman_server.errors import Dispensable, InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import FOR_THE_SERVER
from dragoman_server.providers.json_values import base64_text, json_fragment
from dragoman_server.providers.signatures import unmarked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.descriptor import FieldDescriptor

    from dragoman.v1.message_pb2 import AudioPart, FilePart, ImagePart, Message, Part, ToolCall
    from dragoman.v1.sampling_pb2 import AudioOutput, Prediction, ResponseFormat
    from dragoman.v1.tool_pb2 import Grammar, NamedTool, Tool, ToolChoice
    from dragoman_server.providers.base import GenerationRequest, PlainChat
    from dragoman_server.providers.json_values import Json
    from dragoman_server.providers.vendors import Quirks

_ROLES: Mapping[int, str] = {
    Role.ROLE_SYSTEM: "system",
    Role.ROLE_DEVELOPER: "developer",
    Role.ROLE_USER: "user",
    Role.ROLE_ASSISTANT: "assistant",
    Role.ROLE_TOOL: "tool",
}
_OLD_ROLES = {**_ROLES, Role.ROLE_DEVELOPER: "system"}
"""The words of servers that know no developers."""


def encode_request(request: GenerationRequest, quirks: Quirks, mark: bytes) -> bytes:
    """Returns the body of the request.

    Args:
        request: What is asked for.
        quirks: How the server departs from the dialect.
        mark: The provider's mark on its signatures; empty if it takes none.

    Raises:
        UnsupportedFeature: If the dialect or the server has no word for something that is asked for.
        InvalidRequest: If JSON text within the request is not JSON.
    """
    plain = request.plain
    if plain is not None and plain.spec is request.spec and not quirks.unsupported:
        body = _plain_body(request.model, plain, quirks)
    else:
        body = _body(request, quirks, mark)
    if request.incremental:
        body["stream"] = True
        if quirks.stream_usage:
            body["stream_options"] = {"include_usage": True}
            if quirks.obfuscates:
                body["stream_options"]["include_obfuscation"] = False
    return orjson.dumps(body)


def _plain_body(model: str, plain: PlainChat, quirks: Quirks) -> Json:
    """Returns what `_body` does, of a conversation that was read already."""
    roles = _ROLES if quirks.developer_role else _OLD_ROLES
    messages = [{"role": roles[role], "content": text} for role, text in plain.messages]
    body: Json = {"model": model, "messages": messages}
    _write_sampling(body, plain.sampling)
    if quirks.renames:
        _rename(quirks, body)
    return body


def _body(request: GenerationRequest, quirks: Quirks, mark: bytes) -> Json:
    """Returns whom the request asks and what; not how it is to be answered."""
    body: Json = {"model": request.model}
    unsupported = quirks.unsupported
    for descriptor, value in request.spec.ListFields():
        writer = _WRITERS.get(descriptor)
        if unsupported:
            _refuse(descriptor.name, value, unsupported)
        if writer is None:
            raise UnsupportedFeature(f"{descriptor.name} cannot be handed over to this provider", field=descriptor.name)
        if writer is _write_messages:
            _write_messages(body, value, mark)
        else:
            writer(body, value)
    if quirks.renames:
        _rename(quirks, body)
    if not quirks.developer_role or quirks.thoughts_field != _THOUGHTS:
        body["messages"] = list(_in_their_words(quirks, body.get("messages", ())))
    return body


def _refuse(name: str, value: Any, unsupported: frozenset[str]) -> None:
    """Refuses a field that the server does not know, or one within the sampling."""
    names = [name] if name != "sampling" else [name, *(f"sampling.{inner.name}" for inner, _ in value.ListFields())]
    for path in names:
        if path in unsupported:
            last = path.removeprefix("sampling.")
            raise UnsupportedFeature(f"{last} cannot be handed over to this provider", field=path)


def _rename(quirks: Quirks, body: Json) -> None:
    """Names fields as the server does."""
    for name, theirs in (("max_tokens", quirks.max_tokens_field), ("seed", quirks.seed_field)):
        if theirs != name and name in body:
            body[theirs] = body.pop(name)


def _in_their_words(quirks: Quirks, messages: Iterable[Json]) -> Iterator[Json]:
    for message in messages:
        if message["role"] == "developer" and not quirks.developer_role:
            message["role"] = "system"
        elif quirks.thoughts_field != _THOUGHTS and _THOUGHTS in message:
            thoughts = message.pop(_THOUGHTS)
            if quirks.thoughts_field:
                message[quirks.thoughts_field] = thoughts
            elif not _says_something(message):
                continue
        yield message


# Messages

_THOUGHTS = "reasoning_content"
"""Where thoughts of the past stand in a message: a de-facto extension of the dialect."""


def _write_messages(body: Json, messages: Sequence[Message], mark: bytes = b"") -> None:
    written: list[Json] = []
    for index, message in enumerate(messages[:]):  # lists: cheaper than to ask a field for each of its items
        parts = message.parts[:]
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidRequest("the role is missing or unknown", field=f"messages[{index}].role")
        if role == "tool":
            written += _tool_messages(parts, index)
            continue
        entry: Json = {"role": role}
        if name := message.name:
            entry["name"] = name
        part = parts[0] if len(parts) == 1 else None
        if part is not None and part.WhichOneof("kind") == "text" and not part.HasField("cache_breakpoint"):
            entry["content"] = part.text.text
        else:
            _write_parts(entry, parts, f"messages[{index}].parts", mark)
            if not _says_something(entry):
                continue
        written.append(entry)
    body["messages"] = written


def _says_something(message: Json) -> bool:
    """Whether a message is more than its role: one of nothing but thoughts may have lost them on the way."""
    return message["content"] is not None or not message.keys() <= {"role", "name", "content"}


def _write_parts(entry: Json, parts: Iterable[Part], field: str, mark: bytes) -> None:
    content: list[Json] = []
    for index, part in enumerate(parts):
        match part.WhichOneof("kind"):
            case "tool_call":
                entry.setdefault("tool_calls", []).append(_tool_call(part.tool_call, mark))
            case "reasoning":
                if part.reasoning.text:  # the dialect has neither signed nor hidden thoughts
                    entry[_THOUGHTS] = entry.get(_THOUGHTS, "") + part.reasoning.text
            case "refusal":
                content.append({"type": "refusal", "refusal": part.refusal.text})
            case "audio" if part.audio.audio_id:
                entry["audio"] = {"id": part.audio.audio_id}
            case _:
                content.append(_content_part(part, f"{field}[{index}]"))
    entry["content"] = _text_of(content) if _is_text(content) else content or None


def _is_text(content: list[Json]) -> bool:
    """Whether a plain string says the same: every server takes that, not every one takes a list."""
    return len(content) == 1 and content[0].keys() == {"type", "text"}


def _text_of(content: list[Json]) -> str:
    text: str = content[0]["text"]
    return text


def _content_part(part: Part, field: str) -> Json:
    match part.WhichOneof("kind"):
        case "text":
            written: Json = {"type": "text", "text": part.text.text}
        case "image":
            written = {"type": "image_url", "image_url": _image(part.image)}
        case "audio":
            written = {"type": "input_audio", "input_audio": _audio(part.audio)}
        case "file":
            written = {"type": "file", "file": _file(part.file, field)}
        case kind:
            raise UnsupportedFeature(f"a part of kind {kind} cannot stand here", field=field)
    if part.HasField("cache_breakpoint"):
        written["prompt_cache_breakpoint"] = {"mode": "explicit"}
        if part.cache_breakpoint.ttl:
            written["prompt_cache_breakpoint"]["ttl"] = part.cache_breakpoint.ttl
    return written


def _image(image: ImagePart) -> Json:
    written: Json = {"url": _data_url(image.media_type, image.data) if image.HasField("data") else image.url}
    if image.detail:
        written["detail"] = _enum_word(ImageDetail, image.detail)
    return written


def _audio(audio: AudioPart) -> Json:
    return {"data": base64_text(audio.data), "format": audio.format}


def _file(file: FilePart, field: str) -> Json:
    written: Json = {}
    match file.WhichOneof("source"):
        case "data":
            written["file_data"] = _data_url(file.media_type or "application/octet-stream", file.data)
        case "file_id":
            written["file_id"] = file.file_id
        case _:
            raise UnsupportedFeature("this provider takes files inline or by id, not by address", field=field)
    if file.filename:
        written["filename"] = file.filename
    return written


def _tool_call(call: ToolCall, mark: bytes) -> Json:
    if call.kind == ToolKind.TOOL_KIND_CUSTOM:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    written: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if mark and (signature := unmarked(call.signature, mark)):  # Google's extension of the dialect
        written["extra_content"] = {"google": {"thought_signature": base64_text(signature)}}
    return written


def _tool_messages(parts: Iterable[Part], message_index: int) -> list[Json]:
    """Returns one message for each result: the dialect has no message with several."""
    written = []
    for index, part in enumerate(parts):
        field = f"messages[{message_index}].parts[{index}]"
        if not part.HasField("tool_result"):
            raise InvalidRequest("a tool message consists of tool results", field=field)
        result = part.tool_result
        inner = [_content_part(piece, f"{field}.tool_result.parts[{at}]") for at, piece in enumerate(result.parts)]
        content = _text_of(inner) if _is_text(inner) else inner or ""
        written.append({"role": "tool", "tool_call_id": result.call_id, "content": content})
    return written


# Sampling


def _write_sampling(body: Json, fields: Iterable[tuple[FieldDescriptor, Any]]) -> None:
    for descriptor, value in fields:
        theirs = _SAME_IN_SAMPLING.get(descriptor)
        if theirs is not None:
            body[theirs] = value
            continue
        name = descriptor.name
        if name == "stop":
            body["stop"] = list(value)
        elif name == "logit_bias":
            body["logit_bias"] = {str(token): bias for token, bias in value.items()}
        elif name != "choice_count":  # the engine asks for each choice by itself
            raise UnsupportedFeature(f"{name} cannot be handed over to this provider", field=f"sampling.{name}")


_SAMPLING = Sampling.DESCRIPTOR.fields_by_name
_SAME_IN_SAMPLING = {
    _SAMPLING["max_output_tokens"]: "max_tokens",
    **{
        _SAMPLING[name]: name
        for name in (
            *("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logprobs", "top_logprobs"),
            *("top_k", "min_p", "repetition_penalty"),  # de-facto extensions of vLLM, SGLang, llama.cpp and others
        )
    },
}
"""What the dialect calls fields that it takes as they are."""


def _write_response_format(body: Json, response_format: ResponseFormat) -> None:
    match response_format.WhichOneof("kind"):
        case "text":
            body["response_format"] = {"type": "text"}
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = response_format.json_schema
            written: Json = {"name": schema.name}
            if schema.description:
                written["description"] = schema.description
            if schema.schema_json:
                written["schema"] = json_fragment(schema.schema_json, "response_format.json_schema.schema_json")
            if schema.HasField("strict"):
                written["strict"] = schema.strict
            body["response_format"] = {"type": "json_schema", "json_schema": written}
        case kind:
            raise UnsupportedFeature(f"this provider follows no {kind}", field=f"response_format.{kind}")


def _write_modalities(body: Json, modalities: Iterable[Modality]) -> None:
    body["modalities"] = [_enum_word(Modality, modality) for modality in modalities]


def _write_audio(body: Json, audio: AudioOutput) -> None:
    body["audio"] = {"voice": audio.voice, "format": audio.format}


def _write_prediction(body: Json, prediction: Prediction) -> None:
    parts = [_content_part(part, f"prediction.parts[{index}]") for index, part in enumerate(prediction.parts)]
    body["prediction"] = {"type": "content", "content": _text_of(parts) if _is_text(parts) else parts}


# Tools


def _write_tools(body: Json, tools: Iterable[Tool]) -> None:
    body["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _tool(tool: Tool, field: str) -> Json:
    match tool.WhichOneof("kind"):
        case "function":
            function: Json = {"name": tool.function.name}
            if tool.function.description:
                function["description"] = tool.function.description
            if tool.function.parameters_json:
                function["parameters"] = json_fragment(
                    tool.function.parameters_json, f"{field}.function.parameters_json"
                )
            if tool.function.HasField("strict"):
                function["strict"] = tool.function.strict
            return {"type": "function", "function": function}
        case "custom":
            custom: Json = {"name": tool.custom.name}
            if tool.custom.description:
                custom["description"] = tool.custom.description
            if tool.custom.HasField("grammar"):
                custom["format"] = {
                    "type": "grammar",
                    "grammar": _grammar(tool.custom.grammar, f"{field}.custom.grammar"),
                }
            return {"type": "custom", "custom": custom}
    raise InvalidRequest("a tool is a function or a custom tool", field=field)


def _grammar(grammar: Grammar, field: str) -> Json:
    if grammar.syntax not in (GrammarSyntax.GRAMMAR_SYNTAX_LARK, GrammarSyntax.GRAMMAR_SYNTAX_REGEX):
        raise UnsupportedFeature("this provider follows Lark grammars and regular expressions", field=f"{field}.syntax")
    return {"syntax": _enum_word(GrammarSyntax, grammar.syntax), "definition": grammar.definition}


def _write_tool_choice(body: Json, choice: ToolChoice) -> None:
    match choice.WhichOneof("kind"):
        case "mode":
            body["tool_choice"] = _enum_word(ToolMode, choice.mode)
        case "tool":
            body["tool_choice"] = _named_tool(choice.tool)
        case "allowed":
            allowed = {
                "mode": _enum_word(ToolMode, choice.allowed.mode),
                "tools": [_named_tool(tool) for tool in choice.allowed.tools],
            }
            body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}


def _named_tool(tool: NamedTool) -> Json:
    kind = "custom" if tool.custom else "function"
    return {"type": kind, kind: {"name": tool.name}}


# Values


def _enum_word(enum: Any, value: int) -> str:
    """Returns the word of an enum value as the dialect writes it: without the prefix, in lower case."""
    name: str = enum.Name(value)
    return name.removeprefix(_prefix(enum.DESCRIPTOR.name)).lower()


def _prefix(enum_name: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in enum_name)[1:].upper() + "_"


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64_text(data)}"


def _skip(body: Json, value: Any) -> None:
    """Says nothing: the field is for this server."""


def _write_include_reasoning(body: Json, included: bool) -> None:
    """Servers that think in this dialect show it anyway; none can be told not to."""
    if not included:
        raise UnsupportedFeature("this provider cannot be told to hide thoughts", field="include_reasoning")


def _write_budget(body: Json, tokens: int) -> None:
    refusal = UnsupportedFeature if tokens else Dispensable  # most models that are asked in this dialect do not think
    raise refusal("thoughts have no budget with this provider", field="reasoning_budget_tokens")


def _same(name: str) -> Callable[[Json, Any], None]:
    def write(body: Json, value: Any) -> None:
        body[name] = value

    return write


def _json(name: str) -> Callable[[Json, Any], None]:
    def write(body: Json, value: str) -> None:
        body[name] = json_fragment(value, f"{name}_json")

    return write


def _word(name: str, enum: Any) -> Callable[[Json, Any], None]:
    def write(body: Json, value: int) -> None:
        body[name] = _enum_word(enum, value)

    return write


def _write_metadata(body: Json, metadata: Mapping[str, str]) -> None:
    body["metadata"] = dict(metadata)


FIELDS: Mapping[str, Callable[[Json, Any], None]] = {
    **dict.fromkeys(FOR_THE_SERVER, _skip),
    "include_reasoning": _write_include_reasoning,
    "messages": _write_messages,
    "sampling": lambda body, sampling: _write_sampling(body, sampling.ListFields()),
    "tools": _write_tools,
    "tool_choice": _write_tool_choice,
    "response_format": _write_response_format,
    "modalities": _write_modalities,
    "audio": _write_audio,
    "prediction": _write_prediction,
    "metadata": _write_metadata,
    "reasoning_budget_tokens": _write_budget,
    "reasoning_effort": _word("reasoning_effort", ReasoningEffort),
    "verbosity": _word("verbosity", Verbosity),
    **{
        name: _same(name)
        for name in (
            *("parallel_tool_calls", "service_tier", "user", "safety_identifier", "prompt_cache_key"),
            *("prompt_cache_retention", "store"),
        )
    },
    **{
        f"{name}_json": _json(name)
        for name in ("web_search_options", "chat_template_kwargs", "moderation", "prompt_cache_options")
    },
}
"""Who writes each field. Fields without a row (safety settings) have no word in this dialect."""

_WRITERS = {ChatSpec.DESCRIPTOR.fields_by_name[name]: writer for name, writer in FIELDS.items()}
