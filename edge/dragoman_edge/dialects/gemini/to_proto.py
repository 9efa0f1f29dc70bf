"""Translates a checked request into the contract: one small function per field, applied to those that are given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.sampling_pb2 import Modality, ReasoningEffort
from dragoman.v1.tool_pb2 import GrammarSyntax, ToolMode
from dragoman_edge.dialects.gemini.answer import SOUND
from dragoman_edge.dialects.gemini.contents import add_contents, add_system
from dragoman_edge.dialects.gemini.json_schema import to_json_schema
from dragoman_edge.dialects.gemini.request import invalid, missing, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.run_pb2 import ChatSpec, RunSpec
    from dragoman_edge.dialects.gemini.request import Json

_JSON, _ENUM, _PLAIN = "application/json", "text/x.enum", "text/plain"
_MODALITIES = {"TEXT": Modality.MODALITY_TEXT, "IMAGE": Modality.MODALITY_IMAGE, "AUDIO": Modality.MODALITY_AUDIO}
_LEVELS = {
    "MINIMAL": ReasoningEffort.REASONING_EFFORT_MINIMAL,
    "LOW": ReasoningEffort.REASONING_EFFORT_LOW,
    "MEDIUM": ReasoningEffort.REASONING_EFFORT_MEDIUM,
    "HIGH": ReasoningEffort.REASONING_EFFORT_HIGH,
    "XHIGH": ReasoningEffort.REASONING_EFFORT_XHIGH,
}
_MODES = {"ANY": ToolMode.TOOL_MODE_REQUIRED, "NONE": ToolMode.TOOL_MODE_NONE}
_UNSPECIFIED = "UNSPECIFIED"
_CONFIG = "generation_config"
_SCHEMA_NAME = "response"


def fill_spec(spec: RunSpec, request: Json, model: str) -> None:
    """Fills an empty spec with what the request asks for.

    Args:
        spec: Takes it.
        request: A checked `GenerateContentRequest`.
        model: The model that the path names.

    Raises:
        EdgeError: If a value makes no sense.
    """
    named = request.get("model", model).removeprefix("models/")
    if named != model:
        raise invalid("model", f"The request names the model {named[:100]!r}, but its address another.")
    chat = spec.chat
    chat.model = model
    config = request.get("generationConfig", {})
    if "systemInstruction" in request:
        add_system(chat, request["systemInstruction"])
    add_contents(chat, request.get("contents", []), config.get("mediaResolution", ""))
    _fill_tools(chat, request.get("tools", ()))
    for setting in request.get("safetySettings", ()):
        _add_safety(chat, setting)
    if "toolConfig" in request:
        _fill_tool_choice(chat, request["toolConfig"].get("functionCallingConfig", {}))
    if not (tier := request.get("serviceTier", _UNSPECIFIED)).endswith(_UNSPECIFIED):
        chat.service_tier = tier.lower()
    if "store" in request:
        chat.store = request["store"]
    spec.labels.update(request.get("labels", {}))
    _fill_config(chat, config)


def _fill_config(chat: ChatSpec, config: Json) -> None:
    for name, value in config.items():
        if (fill := _FILL.get(name)) is not None:
            fill(chat, value)
    _fill_format(chat, config)
    if "logprobs" in config and not config.get("responseLogprobs"):
        raise invalid(f"{_CONFIG}.logprobs", f"'{_CONFIG}.logprobs' is only allowed when 'response_logprobs' is true.")


# Tools


def _fill_tools(chat: ChatSpec, tools: Any) -> None:
    for number, tool in enumerate(tools):
        for index, declaration in enumerate(tool.get("functionDeclarations", ())):
            _add_function(chat, declaration, f"tools[{number}].function_declarations[{index}]")


def _add_function(chat: ChatSpec, declaration: Json, path: str) -> None:
    function = chat.tools.add().function
    if not declaration.get("name"):
        raise missing(f"{path}.name")
    function.name = declaration["name"]
    function.description = declaration.get("description", "")
    if "parameters" in declaration and "parametersJsonSchema" in declaration:
        raise invalid(path, f"'{path}' has both 'parameters' and 'parameters_json_schema'.")
    schema = declaration.get("parametersJsonSchema")
    if "parameters" in declaration:
        schema = to_json_schema(declaration["parameters"], f"{path}.parameters")
    if schema is not None:
        function.parameters_json = orjson.dumps(schema).decode()


def _fill_tool_choice(chat: ChatSpec, config: Json) -> None:
    mode = config.get("mode", "MODE_UNSPECIFIED")
    names = config.get("allowedFunctionNames", ())
    where = "tool_config.function_calling_config"
    if mode == "MODE_UNSPECIFIED" and not names:
        return
    if mode == "NONE" and names:
        raise invalid(f"{where}.allowed_function_names", f"'{where}' allows functions, but its mode is NONE.")
    if mode == "VALIDATED":
        for tool in chat.tools:
            tool.function.strict = True
    if not names:
        chat.tool_choice.mode = _MODES.get(mode, ToolMode.TOOL_MODE_AUTO)
        return
    chat.tool_choice.allowed.mode = _MODES.get(mode, ToolMode.TOOL_MODE_AUTO)
    for name in names:
        chat.tool_choice.allowed.tools.add().name = name


# Safety


def _add_safety(chat: ChatSpec, setting: Json) -> None:
    for name in ("category", "threshold"):
        if setting.get(name, _UNSPECIFIED).endswith(_UNSPECIFIED):
            raise missing(f"safety_settings.{name}")
    category, threshold = setting["category"], setting["threshold"]
    if any(one.category == category for one in chat.safety_settings):
        raise invalid("safety_settings", f"Element at safety_settings repeats the category {category}.")
    if threshold == "BLOCK_HIGH_AND_ABOVE":  # another vendor's name of it
        threshold = "BLOCK_ONLY_HIGH"
    chat.safety_settings.add(category=category, threshold=threshold)


# The form of the answer


def _fill_format(chat: ChatSpec, config: Json) -> None:
    media_type, schema, path = _format_of(config)
    if media_type == _ENUM:
        _fill_choices(chat, schema, path)
    elif media_type == _JSON and schema is None:
        chat.response_format.json_object.SetInParent()
    elif media_type == _JSON:
        made = chat.response_format.json_schema
        made.name, made.schema_json, made.strict = _SCHEMA_NAME, orjson.dumps(schema).decode(), True
    elif schema is not None:
        raise invalid(path, f"'{path}' needs the response_mime_type {_JSON} or {_ENUM}.")
    elif media_type == _PLAIN:
        chat.response_format.text.SetInParent()
    elif media_type:
        where = f"{_CONFIG}.response_mime_type"
        raise invalid(where, f"'{where}' must be one of {_PLAIN}, {_JSON} and {_ENUM}.")


def _format_of(config: Json) -> tuple[str, Any, str]:
    """Returns the media type of the answer, its JSON Schema or None, and the field that has the schema."""
    found: list[tuple[Any, str]] = []
    media_type = config.get("responseMimeType", "")
    path = f"{_CONFIG}.response_schema"
    if "responseSchema" in config:
        found.append((to_json_schema(config["responseSchema"], path), path))
    if "responseJsonSchema" in config:
        found.append((config["responseJsonSchema"], f"{_CONFIG}.response_json_schema"))
    for form in config.get("responseFormat", ()):
        text = form.get("text", {})
        media_type = text.get("mimeType", media_type).lower().replace("application_json", _JSON)
        media_type = media_type.replace("text_plain", _PLAIN)
        if "schema" in text:
            found.append((text["schema"], f"{_CONFIG}.response_format.text.schema"))
    if len(found) > 1:
        raise invalid(found[1][1], f"'{found[1][1]}' and '{found[0][1]}' must not be used at the same time.")
    schema, path = found[0] if found else (None, path)
    return media_type, schema, path


def _fill_choices(chat: ChatSpec, schema: Any, path: str) -> None:
    """Asks for one of some texts: a grammar, for the answer is the bare text and not JSON."""
    choices = schema.get("enum") if isinstance(schema, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise invalid(path, f"'{path}' needs a schema of type STRING with 'enum' for the media type {_ENUM}.")
    if any(_CONTROL.search(choice) for choice in choices):
        raise unsupported(path, "control characters cannot be chosen")
    grammar = chat.response_format.grammar
    grammar.syntax = GrammarSyntax.GRAMMAR_SYNTAX_GBNF
    grammar.definition = "root ::= " + " | ".join(_literal(choice) for choice in choices)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# The fields of the generation config, one by one


def _sampling(field: str) -> Callable[[ChatSpec, Any], None]:
    return lambda chat, value: setattr(chat.sampling, field, value)


def _fill_stop(chat: ChatSpec, value: list[str]) -> None:
    chat.sampling.stop.extend(value)


def _fill_modalities(chat: ChatSpec, value: list[str]) -> None:
    chat.modalities.extend(_MODALITIES[name] for name in value)


def _fill_speech(chat: ChatSpec, value: Json) -> None:
    voice = value.get("voiceConfig", {}).get("prebuiltVoiceConfig", {}).get("voiceName")
    if not voice:
        raise missing(f"{_CONFIG}.speech_config.voice_config.prebuilt_voice_config.voice_name")
    chat.audio.voice, chat.audio.format = voice, SOUND.format


def _fill_thinking(chat: ChatSpec, value: Json) -> None:
    if value.get("includeThoughts"):  # they are hidden by default here, whoever answers: few could be told to do it
        chat.include_reasoning = True
    if not (level := value.get("thinkingLevel", _UNSPECIFIED)).endswith(_UNSPECIFIED):
        chat.reasoning_effort = _LEVELS[level]
    budget = value.get("thinkingBudget", -1)
    if budget < -1:
        where = f"{_CONFIG}.thinking_config.thinking_budget"
        raise invalid(where, f"'{where}' must be 0 or more, or -1, which leaves it to the model.")
    if budget >= 0:
        chat.reasoning_budget_tokens = budget


_FILL: dict[str, Callable[[ChatSpec, Any], None]] = {
    "temperature": _sampling("temperature"),
    "topP": _sampling("top_p"),
    "topK": _sampling("top_k"),
    "candidateCount": _sampling("choice_count"),
    "maxOutputTokens": _sampling("max_output_tokens"),
    "seed": _sampling("seed"),
    "presencePenalty": _sampling("presence_penalty"),
    "frequencyPenalty": _sampling("frequency_penalty"),
    "responseLogprobs": _sampling("logprobs"),
    "logprobs": _sampling("top_logprobs"),
    "stopSequences": _fill_stop,
    "responseModalities": _fill_modalities,
    "speechConfig": _fill_speech,
    "thinkingConfig": _fill_thinking,
}
"""What is not here is read elsewhere: the form of the answer and the resolution of media."""
