"""From the contract to the JSON of a `generateContent` request.

Only fields that are set are visited, each by a function of its own; a field that none of them knows is refused, so that
a new field of the contract can never be dropped in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman.v1.sampling_pb2 import Modality
from dragoman.v1.tool_pb2 import ToolMode
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import FOR_THE_SERVER
from dragoman_server.providers.gemini.contents import conversation
from dragoman_server.providers.gemini.schema import NotFollowed, strict_schema
from dragoman_server.providers.gemini.thinking import family_of, thinking_config
from dragoman_server.providers.json_values import json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dragoman.v1.message_pb2 import Message
    from dragoman.v1.run_pb2 import SafetySetting
    from dragoman.v1.sampling_pb2 import AudioOutput, JsonSchemaFormat, ResponseFormat, Sampling
    from dragoman.v1.tool_pb2 import FunctionTool, NamedTool, Tool, ToolChoice
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.json_values import Json
    from dragoman_server.providers.vendors import Quirks

_MAX_STOP_TEXTS = 5


class _Draft(NamedTuple):
    """A request that is being written.

    Attributes:
        model: The model.
        unsupported: Fields that the server does not know.
        mark: The provider's mark on its signatures.
        body: The request.
        config: Its `generationConfig`.
    """

    model: str
    unsupported: frozenset[str]
    mark: bytes
    body: Json
    config: Json


def encode_request(request: GenerationRequest, quirks: Quirks, mark: bytes) -> bytes:
    """Returns the body of the request.

    Args:
        request: What is asked for.
        quirks: How the server departs from the API.
        mark: The provider's mark on its signatures.

    Raises:
        UnsupportedFeature: If the dialect, the server or the model has no word for something that is asked for.
        InvalidRequest: If JSON text within the request is not JSON.
    """
    draft = _Draft(request.model, quirks.unsupported, mark, {}, {})
    for descriptor, value in request.spec.ListFields():
        writer = FIELDS.get(descriptor.name)
        if writer is None or descriptor.name in quirks.unsupported:
            raise _no_word(descriptor.name)
        writer(draft, value)
    if (thinking := thinking_config(request.model, request.spec)) is not None:
        draft.config["thinkingConfig"] = thinking
    if draft.config:
        draft.body["generationConfig"] = draft.config
    return orjson.dumps(draft.body)


def _no_word(field: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{field} cannot be handed over to this provider", field=field)


def _write_messages(draft: _Draft, messages: Iterable[Message]) -> None:
    system, contents = conversation(messages, draft.mark, newest=family_of(draft.model).levels)
    if system:
        draft.body["systemInstruction"] = {"parts": system}
    draft.body["contents"] = contents


# Sampling


_SAMPLING: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
    "stop": "stopSequences",
    "max_output_tokens": "maxOutputTokens",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}


def _write_sampling(draft: _Draft, sampling: Sampling) -> None:
    for descriptor, value in sampling.ListFields():
        name = descriptor.name
        field = f"sampling.{name}"
        if name == "choice_count":  # the engine asks for each choice by itself
            continue
        word = _SAMPLING.get(name)
        if word is None or field in draft.unsupported:
            raise _no_word(field)
        if name == "stop":
            value = list(value)
            if len(value) > _MAX_STOP_TEXTS:
                raise UnsupportedFeature(f"this provider takes at most {_MAX_STOP_TEXTS} stop texts", field=field)
        elif name == "top_k" and value == 0:
            raise UnsupportedFeature("this provider cannot be asked for all tokens", field=field)
        elif name == "seed" and not -(2**31) <= value < 2**31:
            raise UnsupportedFeature("a seed of this provider has 32 bits", field=field)
        elif name == "top_logprobs" and value == 0:
            continue
        draft.config[word] = value


def _write_response_format(draft: _Draft, response_format: ResponseFormat) -> None:
    match response_format.WhichOneof("kind"):
        case "text":
            pass  # the default
        case "json_object":
            draft.config["responseMimeType"] = "application/json"
        case "json_schema":
            draft.config["responseMimeType"] = "application/json"
            if response_format.json_schema.schema_json:
                draft.config["responseJsonSchema"] = _answer_schema(response_format.json_schema)
        case kind:
            raise UnsupportedFeature(f"this provider follows no {kind}", field=f"response_format.{kind}")


def _answer_schema(answer: JsonSchemaFormat) -> Json | orjson.Fragment:
    """Returns the schema of the answer; what the answer is for can only be said within it."""
    field = "response_format.json_schema"
    schema = _schema(answer.schema_json, f"{field}.schema_json", f"{field}.strict" if answer.strict else "")
    if not answer.description:
        return schema
    parsed = json_object(answer.schema_json, field) if isinstance(schema, orjson.Fragment) else schema
    if "description" in parsed:
        raise UnsupportedFeature("the schema has a description of its own", field=f"{field}.description")
    return {"description": answer.description, **parsed}


def _schema(text: str, field: str, strict_field: str) -> Json | orjson.Fragment:
    """Returns a JSON Schema as it is, or, if it must be followed exactly, as the API follows it."""
    schema = json_object(text, field)
    if not strict_field:
        return orjson.Fragment(text)
    try:
        return strict_schema(schema)
    except NotFollowed as error:
        raise UnsupportedFeature(
            f"this provider does not follow {error} of a schema strictly", field=strict_field
        ) from error


_MODALITIES: Mapping[int, str] = {Modality.MODALITY_TEXT: "TEXT", Modality.MODALITY_AUDIO: "AUDIO"}


def _write_modalities(draft: _Draft, modalities: Iterable[int]) -> None:
    try:
        draft.config["responseModalities"] = [_MODALITIES[modality] for modality in modalities]
    except KeyError as error:
        raise UnsupportedFeature("answers consist of text or sound", field="modalities") from error


def _write_audio(draft: _Draft, audio: AudioOutput) -> None:
    if audio.format != "pcm16":
        raise UnsupportedFeature("this provider speaks in pcm16 only", field="audio.format")
    draft.config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": audio.voice}}}


# Tools


def _write_tools(draft: _Draft, tools: Iterable[Tool]) -> None:
    declarations = []
    strict = False
    for index, tool in enumerate(tools):
        if not tool.HasField("function"):
            raise UnsupportedFeature("this provider knows functions only", field=f"tools[{index}]")
        declarations.append(_declaration(tool.function, f"tools[{index}].function"))
        strict = strict or tool.function.strict
    draft.body["tools"] = [{"functionDeclarations": declarations}]
    if strict:
        _write_mode(draft, "VALIDATED")


def _declaration(function: FunctionTool, field: str) -> Json:
    written: Json = {"name": function.name}
    if function.description:
        written["description"] = function.description
    if function.parameters_json:
        strict_field = f"{field}.strict" if function.strict else ""
        written["parametersJsonSchema"] = _schema(function.parameters_json, f"{field}.parameters_json", strict_field)
    return written


_MODES: Mapping[int, str] = {
    ToolMode.TOOL_MODE_NONE: "NONE",
    ToolMode.TOOL_MODE_REQUIRED: "ANY",
}


def _write_tool_choice(draft: _Draft, choice: ToolChoice) -> None:
    match choice.WhichOneof("kind"):
        case "mode" if choice.mode == ToolMode.TOOL_MODE_AUTO:
            if "toolConfig" not in draft.body:  # strict tools have said more already
                _write_mode(draft, "AUTO")
        case "mode" if choice.mode in _MODES:
            _write_mode(draft, _MODES[choice.mode])
        case "tool":
            _write_mode(draft, "ANY", [choice.tool])
        case "allowed":
            required = choice.allowed.mode == ToolMode.TOOL_MODE_REQUIRED
            # AUTO takes no names; VALIDATED is AUTO with names, and with arguments that follow their schemas.
            _write_mode(draft, "ANY" if required else "VALIDATED", choice.allowed.tools)
        case _:
            raise InvalidRequest("the rule is missing or unknown", field="tool_choice")


def _write_mode(draft: _Draft, mode: str, allowed: Iterable[NamedTool] = ()) -> None:
    config: Json = {"mode": mode}
    names = [tool.name for tool in allowed]
    if names:
        config["allowedFunctionNames"] = names
    draft.body["toolConfig"] = {"functionCallingConfig": config}


def _write_parallel_tool_calls(draft: _Draft, parallel: bool) -> None:
    if not parallel:
        raise UnsupportedFeature("calls cannot be held to one at a time", field="parallel_tool_calls")


def _write_web_search(draft: _Draft, options_json: str) -> None:
    if json_object(options_json, "web_search_options_json"):
        raise UnsupportedFeature("the search of this provider has no such options", field="web_search_options_json")
    draft.body.setdefault("tools", []).append({"googleSearch": {}})


# The rest


_SERVICE_TIERS: Mapping[str, str] = {
    "auto": "",  # the provider's choice
    "default": "standard",
    "standard": "standard",
    "flex": "flex",
    "priority": "priority",
}


def _write_service_tier(draft: _Draft, tier: str) -> None:
    word = _SERVICE_TIERS.get(tier)
    if word is None:
        raise UnsupportedFeature(f"this provider has no class of service {tier!r}", field="service_tier")
    if word:
        draft.body["serviceTier"] = word


def _write_safety_settings(draft: _Draft, settings: Iterable[SafetySetting]) -> None:
    draft.body["safetySettings"] = [
        {"category": setting.category, "threshold": setting.threshold} for setting in settings
    ]


def _write_metadata(draft: _Draft, metadata: Mapping[str, str]) -> None:
    draft.body["labels"] = dict(metadata)


def _write_store(draft: _Draft, store: bool) -> None:
    draft.body["store"] = store


def _skip(draft: _Draft, value: Any) -> None:
    """For what is for this server, and what is written together with other fields."""


FIELDS: Mapping[str, Callable[[_Draft, Any], None]] = {
    **dict.fromkeys(FOR_THE_SERVER, _skip),
    **dict.fromkeys(("reasoning_effort", "reasoning_budget_tokens", "include_reasoning"), _skip),  # thinking.py
    "messages": _write_messages,
    "sampling": _write_sampling,
    "tools": _write_tools,
    "tool_choice": _write_tool_choice,
    "parallel_tool_calls": _write_parallel_tool_calls,
    "response_format": _write_response_format,
    "modalities": _write_modalities,
    "audio": _write_audio,
    "service_tier": _write_service_tier,
    "metadata": _write_metadata,
    "store": _write_store,
    "web_search_options_json": _write_web_search,
    "safety_settings": _write_safety_settings,
}
