"""Asking a provider that lacks a feature: without the field, or with the server standing in; or not at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import Dispensable, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.message import Message

    from dragoman_server.providers.base import Generation, GenerationRequest, GenerationSink

    Check = Callable[[ChatSpec], None]
    """Raises UnsupportedFeature for what a model is known not to do."""
    Start = Callable[[GenerationRequest, GenerationSink], Generation]
    """`Provider.start`, or what stands in for it."""

DROPPABLE = frozenset(
    {
        "sampling.temperature",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.min_p",
        "sampling.frequency_penalty",
        "sampling.presence_penalty",
        "sampling.repetition_penalty",
        "sampling.seed",
        "sampling.logit_bias",
        "sampling.logprobs",
        "sampling.top_logprobs",
        "parallel_tool_calls",
        "reasoning_effort",
        "reasoning_budget_tokens",
        "include_reasoning",
        "verbosity",
        "prediction",
        "service_tier",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options_json",
        "metadata",
        "store",
        "tools[].function.strict",
        "messages[].parts[].image.detail",
        "messages[].parts[].cache_breakpoint",
        "messages[].parts[].cache_breakpoint.ttl",
        "messages[].parts[].tool_result.parts[].image.detail",
        "messages[].parts[].tool_result.parts[].cache_breakpoint",
        "messages[].parts[].tool_result.parts[].cache_breakpoint.ttl",
    }
)
"""Fields whose loss changes how an answer comes about, not what it is: they may be left out, and that be told. Those of
things that a request has several of are left out of all of them at once: a provider refuses one after the other."""

_INDEX = re.compile(r"\[\d+\]")

_GO_WITH = {"sampling.logprobs": "sampling.top_logprobs"}
"""Fields that mean nothing without another one."""
_OVERRULED = {"reasoning_budget_tokens": "reasoning_effort"}
"""Fields that dispensable ones overrule, and that must not count in their place."""

JSON_FORMATS = ("json_object", "json_schema")
_PARALLEL = "parallel_tool_calls"


class Policy(NamedTuple):
    """What may be done where a provider lacks a feature.

    Attributes:
        report: Whether droppable fields are left out and reported; if not, they are refused.
        emulate_json: Whether JSON answers are validated and asked for again.
    """

    report: bool = False
    emulate_json: bool = True


class Adapted(NamedTuple):
    """A generation, and how its request differs from what was asked for.

    Attributes:
        generation: The generation.
        dropped: Fields that were left out, as paths in the spec; see `DROPPABLE`.
        emulated: Features that the server stands in for, as paths in the spec.
    """

    generation: Generation
    dropped: Sequence[str]
    emulated: Sequence[str]


def checked(start: Start, check: Check) -> Start:
    """Returns what starts generations only of requests that pass a check."""

    def start_checked(request: GenerationRequest, sink: GenerationSink) -> Generation:
        check(request.spec)
        return start(request, sink)

    return start_checked


def start_adapted(
    start: Start, request: GenerationRequest, sink: GenerationSink, error: UnsupportedFeature, policy: Policy
) -> Adapted:
    """Starts a generation after a refusal, with as much changed as the provider needs and the policy allows.

    Args:
        start: Starts a generation of the provider.
        request: The request that was refused.
        sink: Takes the generation.
        error: The refusal.
        policy: What may be changed.

    Raises:
        UnsupportedFeature: The refusal, if the policy allows nothing.
        DragomanError: If the provider refuses the request for another reason.
    """
    dropped: list[str] = []
    emulated: list[str] = []
    spec = request.spec
    while True:
        field = _INDEX.sub("[]", error.field)
        dispensable = isinstance(error, Dispensable)
        others = _OVERRULED if dispensable else _GO_WITH
        if field == _PARALLEL and spec.HasField(_PARALLEL) and not spec.parallel_tool_calls:
            from dragoman_server.providers.emulation.one_call import one_call_starter

            spec = _copy_without(spec, _PARALLEL)[0]
            emulated.append(field)
            start = one_call_starter(start)
        elif (dispensable or (policy.report and field in DROPPABLE)) and (left := _without(spec, field, others)):
            spec, names = left
            dropped += names
        elif policy.emulate_json and (name := _json_format(spec, error.field)) and name not in emulated:
            from dragoman_server.providers.emulation.json_answer import json_starter

            emulated.append(name)
            start = json_starter(start)
        else:
            raise error
        try:
            return Adapted(start(request._replace(spec=spec), sink), dropped, emulated)
        except UnsupportedFeature as another:
            error = another


def _without(spec: ChatSpec, path: str, others: Mapping[str, str]) -> tuple[ChatSpec, list[str]] | None:
    """Returns a copy without a field and the one that goes with it, with their paths; None if it is not there."""
    left, names = _copy_without(spec, path, others.get(path, ""))
    return (left, names) if path in names else None


def _copy_without(spec: ChatSpec, *paths: str) -> tuple[ChatSpec, list[str]]:
    """Returns a copy without some fields, and the paths of those that were there."""
    left = ChatSpec()
    left.CopyFrom(spec)
    return left, [path for path in paths if path and _clear(left, path)]


def _clear(message: Message, path: str) -> bool:
    """Clears a field, in all things of a list; returns whether it was set anywhere."""
    name, _, rest = path.partition(".")
    if not rest:
        is_set = any(descriptor.name == name for descriptor, _ in message.ListFields())
        message.ClearField(name)
        return is_set
    if name.endswith("[]"):
        items = getattr(message, name.removesuffix("[]"))
        return sum(_clear(item, rest) for item in items) > 0  # no `any`, which would stop at the first
    return message.HasField(name) and _clear(getattr(message, name), rest)


def _json_format(spec: ChatSpec, path: str) -> str:
    """Returns the path of the JSON format that a refusal speaks of, or nothing."""
    kind = spec.response_format.WhichOneof("kind")
    name = f"response_format.{kind}"
    # A refusal of a part of a schema names that part: such a schema is refused, not the format.
    return name if kind in JSON_FORMATS and path in ("response_format", name) else ""
