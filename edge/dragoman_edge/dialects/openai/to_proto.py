"""Translates a checked request into the contract: a table or one small function for each parameter that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.run_pb2 import TaskProfile
from dragoman.v1.sampling_pb2 import Modality, ReasoningEffort, Verbosity
from dragoman.v1.tool_pb2 import GrammarSyntax, NamedTool, ToolMode
from dragoman_edge.dialects.openai.messages import add_content, add_messages
from dragoman_edge.dialects.openai.request import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_edge.dialects.openai.schemas import ChatCompletionRequest

_MODES = {"none": ToolMode.TOOL_MODE_NONE, "auto": ToolMode.TOOL_MODE_AUTO, "required": ToolMode.TOOL_MODE_REQUIRED}
_SYNTAXES = {"lark": GrammarSyntax.GRAMMAR_SYNTAX_LARK, "regex": GrammarSyntax.GRAMMAR_SYNTAX_REGEX}
_MODALITIES = {"text": Modality.MODALITY_TEXT, "audio": Modality.MODALITY_AUDIO}


_SHAPE_THE_ANSWER = frozenset({"stream", "stream_options"})
"""Parameters that say nothing of the run."""

_COPIED = frozenset(
    {
        "model",
        "parallel_tool_calls",
        "service_tier",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "store",
        "token_type",
    }
)
"""Parameters that the contract has, by the same name."""

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "n": "choice_count",
    "seed": "seed",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
}
"""Parameters that steer the choice of tokens, and their names in the contract."""


def fill_chat_spec(spec: ChatSpec, request: ChatCompletionRequest) -> None:
    """Fills an empty spec with what the request asks for.

    Raises:
        EdgeError: If a value makes no sense (broken base64, a token id that is no number).
    """
    sampling = spec.sampling
    for name, value in request.items():
        if value is None or name in _SHAPE_THE_ANSWER:
            continue
        if (field := _SAMPLING.get(name)) is not None:
            setattr(sampling, field, value)
        elif name in _COPIED:
            setattr(spec, name, value)
        else:
            _FILL[name](spec, value)


def _copy_json(field: str) -> Callable[[ChatSpec, Any], None]:
    return lambda spec, value: setattr(spec, field, orjson.dumps(value).decode())


def _copy_enum(field: str, enum: Any, prefix: str) -> Callable[[ChatSpec, Any], None]:
    return lambda spec, value: setattr(spec, field, enum.Value(prefix + value.upper()))


def _fill_stop(spec: ChatSpec, value: str | list[str]) -> None:
    spec.sampling.stop.extend([value] if isinstance(value, str) else value)


def _fill_logit_bias(spec: ChatSpec, value: Mapping[str, float]) -> None:
    bias = spec.sampling.logit_bias
    for token, weight in value.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise invalid("logit_bias", f"Invalid 'logit_bias': {token[:40]!r} is not a token id.", "invalid_key")
        bias[int(token)] = weight


def _fill_response_format(spec: ChatSpec, value: Any) -> None:
    target = spec.response_format
    if value["type"] == "text":
        target.text.SetInParent()
    elif value["type"] == "json_object":
        target.json_object.SetInParent()
    else:
        given, schema = value["json_schema"], target.json_schema
        schema.name = given["name"]
        schema.description = given.get("description") or ""
        if given.get("schema") is not None:
            schema.schema_json = orjson.dumps(given["schema"]).decode()
        if given.get("strict") is not None:
            schema.strict = given["strict"]


def _add_function(spec: ChatSpec, given: Any) -> None:
    function = spec.tools.add().function
    function.name = given["name"]
    function.description = given.get("description") or ""
    if given.get("parameters") is not None:
        function.parameters_json = orjson.dumps(given["parameters"]).decode()
    if given.get("strict") is not None:
        function.strict = given["strict"]


def _fill_tools(spec: ChatSpec, value: Any) -> None:
    for tool in value:
        if tool["type"] == "function":
            _add_function(spec, tool["function"])
            continue
        given, custom = tool["custom"], spec.tools.add().custom
        custom.name = given["name"]
        custom.description = given.get("description") or ""
        form = given.get("format")
        if form is not None and form["type"] == "grammar":
            custom.grammar.syntax = _SYNTAXES[form["grammar"]["syntax"]]
            custom.grammar.definition = form["grammar"]["definition"]


def _named(target: NamedTool, choice: Any) -> None:
    target.name = choice[choice["type"]]["name"]
    target.custom = choice["type"] == "custom"


def _fill_tool_choice(spec: ChatSpec, value: Any) -> None:
    choice = spec.tool_choice
    if isinstance(value, str):
        choice.mode = _MODES[value]
    elif value["type"] == "allowed_tools":
        choice.allowed.mode = _MODES[value["allowed_tools"]["mode"]]
        for tool in value["allowed_tools"]["tools"]:
            _named(choice.allowed.tools.add(), tool)
    else:
        _named(choice.tool, value)


def _fill_functions(spec: ChatSpec, value: Any) -> None:
    for function in value:
        _add_function(spec, function)
    spec.parallel_tool_calls = False  # the deprecated answer has room for one call


def _fill_function_call(spec: ChatSpec, value: Any) -> None:
    if isinstance(value, str):
        spec.tool_choice.mode = _MODES[value]
    else:
        spec.tool_choice.tool.name = value["name"]


def _fill_modalities(spec: ChatSpec, value: list[str]) -> None:
    spec.modalities.extend(_MODALITIES[name] for name in value)


def _fill_audio(spec: ChatSpec, value: Any) -> None:
    voice = value["voice"]
    spec.audio.voice = voice if isinstance(voice, str) else voice["id"]
    spec.audio.format = value["format"]


def _fill_prediction(spec: ChatSpec, value: Any) -> None:
    add_content(spec.prediction.parts.add, value["content"], "prediction.content")


def _fill_metadata(spec: ChatSpec, value: dict[str, str]) -> None:
    spec.metadata.update(value)


def _fill_top_k(spec: ChatSpec, value: int) -> None:
    spec.sampling.top_k = max(value, 0)


_FILL: dict[str, Callable[[ChatSpec, Any], None]] = {
    "messages": add_messages,
    "top_k": _fill_top_k,
    "stop": _fill_stop,
    "logit_bias": _fill_logit_bias,
    "response_format": _fill_response_format,
    "tools": _fill_tools,
    "tool_choice": _fill_tool_choice,
    "functions": _fill_functions,
    "function_call": _fill_function_call,
    "reasoning_effort": _copy_enum("reasoning_effort", ReasoningEffort, "REASONING_EFFORT_"),
    "task_profile": _copy_enum("task_profile", TaskProfile, "TASK_PROFILE_"),
    "verbosity": _copy_enum("verbosity", Verbosity, "VERBOSITY_"),
    "modalities": _fill_modalities,
    "audio": _fill_audio,
    "prediction": _fill_prediction,
    "prompt_cache_options": _copy_json("prompt_cache_options_json"),
    "metadata": _fill_metadata,
    "moderation": _copy_json("moderation_json"),
    "web_search_options": _copy_json("web_search_options_json"),
    "chat_template_kwargs": _copy_json("chat_template_kwargs_json"),
}
