"""From the contract to the JSON of a Messages request.

Only fields that are set are visited, each by a function of its own; a field that none of them knows is refused, so that
nothing is dropped in silence. What says no more than the API does by itself is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.sampling_pb2 import Modality, Verbosity
from dragoman.v1.tool_pb2 import ToolMode
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.anthropic_messages.messages import cache_control, turns_of
from dragoman_server.providers.anthropic_messages.models import OTHER, traits_of
from dragoman_server.providers.anthropic_messages.schema import enforceable
from dragoman_server.providers.anthropic_messages.thinking import thinking_of
from dragoman_server.providers.base import FOR_THE_SERVER
from dragoman_server.providers.json_values import json_object
from dragoman_server.providers.remote import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dragoman.v1.message_pb2 import Message
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman.v1.sampling_pb2 import ResponseFormat, Sampling
    from dragoman.v1.tool_pb2 import Tool
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.json_values import Json
    from dragoman_server.providers.vendors import Quirks


_BINDING = {"prefix_mismatch_behavior": "drop_block"}
"""What a model is to do with past thoughts before which the conversation has changed: not to refuse all of it. It
changes with other instructions, for example, or if some tools only are allowed."""
_BINDING_BETA = ("anthropic-beta", "thinking-binding-controls-2026-08-01")


def encode_request(request: GenerationRequest, quirks: Quirks, mark: bytes) -> Call:
    """Returns the request.

    Args:
        request: What is asked for.
        quirks: How the server departs from the API.
        mark: The provider's mark on its signatures.

    Raises:
        UnsupportedFeature: If the API or the model has no word for something that is asked for.
        InvalidRequest: If JSON text within the request is not JSON, or not of the kind that it must be.
    """
    draft = _Draft(request, quirks, mark)
    for descriptor, value in request.spec.ListFields():
        writer = FIELDS.get(descriptor.name)
        if writer is None or descriptor.name in quirks.unsupported:
            raise _no_word(descriptor.name)
        writer(draft, value)
    body = draft.body
    body["max_tokens"] = draft.thinking.max_tokens
    config = draft.thinking.config
    may_bind = draft.traits.binds and (config is None or config["type"] == "adaptive")
    binds = may_bind and _has_thoughts(body.get("messages", ()))
    if binds:
        config = {"type": "adaptive", **(config or {}), "block_binding": _BINDING}
    if config is not None:
        body["thinking"] = config
    if draft.thinking.effort:
        body.setdefault("output_config", {})["effort"] = draft.thinking.effort
    if request.incremental:
        body["stream"] = True
    try:
        return Call("/messages", orjson.dumps(body), _BINDING_BETA if binds else None)
    except orjson.JSONEncodeError as error:  # a schema of hundreds of levels
        raise InvalidRequest(f"the request cannot be written: {error}", field="tools") from error


def _has_thoughts(turns: Iterable[Json]) -> bool:
    return any(
        block["type"] in ("thinking", "redacted_thinking")
        for turn in turns
        if isinstance(turn["content"], list)
        for block in turn["content"]
    )


class _Draft:
    """A request in the making.

    Attributes:
        body: What is written so far.
        spec: What is asked for.
        traits: What the model takes.
        unsupported: What the server does not take, as paths in the spec.
        mark: The provider's mark on its signatures.
        thinking: What is said of thinking.
    """

    __slots__ = ("body", "mark", "spec", "thinking", "traits", "unsupported")

    def __init__(self, request: GenerationRequest, quirks: Quirks, mark: bytes) -> None:
        self.body: Json = {"model": request.model}
        self.spec: ChatSpec = request.spec
        self.traits = traits_of(request.model)
        self.unsupported = quirks.unsupported
        self.mark = mark
        self.thinking = thinking_of(request.spec, self.traits, mark)


def _no_word(field: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{field} cannot be handed over to this provider", field=field)


def _write_messages(draft: _Draft, messages: Iterable[Message]) -> None:
    system, draft.body["messages"] = turns_of(messages, draft.mark)
    if system:
        draft.body["system"] = system


# Sampling

_NEUTRAL: Mapping[str, float] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "top_k": 0,
    "top_logprobs": 0,
}
"""Values that ask for nothing."""
_DEFAULTS: Mapping[str, float] = {"temperature": 1, "top_p": 1}
_NOT_WRITTEN = frozenset({"choice_count", "max_output_tokens"})
"""The engine asks for each choice by itself; the limit depends on the thinking."""


def _write_sampling(draft: _Draft, sampling: Sampling) -> None:
    for descriptor, value in sampling.ListFields():
        name = descriptor.name
        field = f"sampling.{name}"
        if field in draft.unsupported:
            raise _no_word(field)
        if name in _NOT_WRITTEN or _NEUTRAL.get(name) == value:
            continue
        if name == "stop":
            draft.body["stop_sequences"] = _stop_sequences(value)
        elif name in ("temperature", "top_p", "top_k"):
            _check_sampling(draft, name, value)
            if draft.traits.sampling == "all" or _DEFAULTS.get(name) != value:
                draft.body[name] = value
        else:
            raise _no_word(field)


def _check_sampling(draft: _Draft, name: str, value: float) -> None:
    """Refuses what the API would refuse."""
    if _DEFAULTS.get(name) == value:
        return
    field = f"sampling.{name}"
    if draft.traits.sampling == "none":
        raise UnsupportedFeature(f"this model takes no {name}", field=field)
    if name == "temperature" and value > 1:
        raise UnsupportedFeature("this provider takes temperatures from 0 to 1", field=field)
    if draft.thinking.asked and draft.traits is not OTHER and not (name == "top_p" and value >= 0.95):
        raise UnsupportedFeature(f"this model takes no such {name} while it thinks", field=field)
    if name == "top_p" and draft.traits.sampling == "one" and "temperature" in draft.body:
        raise UnsupportedFeature("this model takes either a temperature or top_p", field=field)


def _stop_sequences(texts: Iterable[str]) -> list[str]:
    written = list(texts)
    if not all(text.strip() for text in written):
        raise UnsupportedFeature("this provider takes no stop text of white space only", field="sampling.stop")
    return written


# The form of the answer


def _write_response_format(draft: _Draft, response_format: ResponseFormat) -> None:
    kind = response_format.WhichOneof("kind")
    if kind == "text":
        return
    wanted = response_format.json_schema
    if kind == "grammar":
        raise UnsupportedFeature("this provider follows no grammar", field="response_format.grammar")
    if kind != "json_schema" or not wanted.schema_json:
        raise UnsupportedFeature("this provider answers in JSON only by a schema", field="response_format")
    if not draft.traits.structured or "response_format.json_schema" in draft.unsupported:
        raise UnsupportedFeature("this model cannot be held to a JSON Schema", field="response_format")
    schema = json_object(wanted.schema_json, "response_format.json_schema.schema_json")
    schema = enforceable(schema, strict=wanted.strict, field="response_format")
    draft.body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}


def _write_modalities(draft: _Draft, modalities: Iterable[Modality]) -> None:
    if any(modality != Modality.MODALITY_TEXT for modality in modalities):
        raise UnsupportedFeature("this provider answers in text", field="modalities")


def _write_verbosity(draft: _Draft, verbosity: int) -> None:
    if verbosity != Verbosity.VERBOSITY_MEDIUM:  # which is how everyone writes by default
        raise _no_word("verbosity")


# Tools


def _write_tools(draft: _Draft, tools: Iterable[Tool]) -> None:
    allowed = None
    if draft.spec.tool_choice.HasField("allowed"):
        allowed = {named.name for named in draft.spec.tool_choice.allowed.tools if not named.custom}
    written = []
    for index, tool in enumerate(tools):
        if allowed is None or tool.function.name in allowed:
            written.append(_tool(draft, tool, f"tools[{index}]"))
    if not written:
        return
    draft.body["tools"] = written
    if choice := _tool_choice(draft):
        draft.body["tool_choice"] = choice


def _tool(draft: _Draft, tool: Tool, field: str) -> Json:
    match tool.WhichOneof("kind"):
        case "function":
            pass
        case "custom":
            raise UnsupportedFeature("this provider's tools have JSON arguments", field=f"{field}.custom")
        case _:
            raise InvalidRequest("a tool is a function or a custom tool", field=field)
    function = tool.function
    written: Json = {"name": function.name}
    if function.description:
        written["description"] = function.description
    schema: Json = {}
    if function.parameters_json:
        schema = json_object(function.parameters_json, f"{field}.function.parameters_json")
    schema = {"type": "object", **schema}  # arguments are an object, whether the schema says so or not
    if function.strict:
        at = f"{field}.function.strict"
        if not draft.traits.structured:
            raise UnsupportedFeature("this model cannot be held to a JSON Schema", field=at)
        schema = enforceable({"properties": {}, **schema}, strict=True, field=at)
        written["strict"] = True
    written["input_schema"] = schema
    return written


def _tool_choice(draft: _Draft) -> Json | None:
    spec = draft.spec
    choice = spec.tool_choice
    match choice.WhichOneof("kind"):
        case "mode":
            mode = choice.mode
        case "allowed":
            mode = choice.allowed.mode
        case _:
            mode = ToolMode.TOOL_MODE_UNSPECIFIED
    if mode == ToolMode.TOOL_MODE_NONE:
        return {"type": "none"}
    written: Json = {"type": "auto"}
    if choice.HasField("tool"):
        if choice.tool.custom:
            raise UnsupportedFeature("this provider's tools have JSON arguments", field="tool_choice.tool.custom")
        written = {"type": "tool", "name": choice.tool.name}
    elif mode == ToolMode.TOOL_MODE_REQUIRED:
        written = {"type": "any"}
    if written["type"] != "auto":
        if not draft.traits.forced_tools:
            raise UnsupportedFeature("no tool can be demanded of this model", field="tool_choice")
        if draft.thinking.manual:
            raise UnsupportedFeature("this model cannot think if a tool is demanded", field=draft.thinking.field)
    if spec.HasField("parallel_tool_calls") and not spec.parallel_tool_calls:
        written["disable_parallel_tool_use"] = True
    return written if written != {"type": "auto"} else None


# The caller's marks


def _write_user(draft: _Draft, user: str) -> None:
    """Both names are for abuse checks, and the API has one place; the one meant for it alone comes last and wins."""
    draft.body["metadata"] = {"user_id": user}


_TIERS: Mapping[str, str] = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}
"""Classes of service, by the words of this API and of OpenAI's."""


def _write_service_tier(draft: _Draft, tier: str) -> None:
    if tier not in _TIERS:
        raise UnsupportedFeature(f"this provider's tiers are auto and standard_only, not {tier}", field="service_tier")
    draft.body["service_tier"] = _TIERS[tier]


def _write_prompt_cache_retention(draft: _Draft, retention: str) -> None:
    draft.body["cache_control"] = cache_control(retention, "prompt_cache_retention")


def _write_store(draft: _Draft, store: bool) -> None:
    if store:  # answers are never stored
        raise _no_word("store")


def _elsewhere(draft: _Draft, value: Any) -> None:
    """For what is for this server, goes with `tools` or is said in `thinking`."""


FIELDS: Mapping[str, Callable[[_Draft, Any], None]] = {
    **dict.fromkeys(FOR_THE_SERVER, _elsewhere),
    **dict.fromkeys(("tool_choice", "parallel_tool_calls"), _elsewhere),
    **dict.fromkeys(("reasoning_effort", "reasoning_budget_tokens", "include_reasoning"), _elsewhere),
    "messages": _write_messages,
    "sampling": _write_sampling,
    "tools": _write_tools,
    "response_format": _write_response_format,
    "modalities": _write_modalities,
    "verbosity": _write_verbosity,
    "user": _write_user,
    "safety_identifier": _write_user,
    "service_tier": _write_service_tier,
    "prompt_cache_retention": _write_prompt_cache_retention,
    "store": _write_store,
}
"""Writers by field; for what is not here, the API has no word."""
