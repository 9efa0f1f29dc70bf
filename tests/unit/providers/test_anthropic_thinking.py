from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import ReasoningEffort
from dragoman_server.errors import Dispensable, UnsupportedFeature
from dragoman_server.providers.anthropic_messages.dialect import DIALECT
from dragoman_server.providers.anthropic_messages.models import OTHER, traits_of
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.vendors import Quirks


def encode(model: str, **spec: Any) -> tuple[Any, Any, int]:
    """Returns what a request says: thinking, effort and limit."""
    request = GenerationRequest(ParseDict(spec, ChatSpec()), model)
    body = json.loads(DIALECT.encode(request, Quirks(), b"~anthropic~").body)
    return body.get("thinking"), body.get("output_config", {}).get("effort"), body["max_tokens"]


def refused(model: str, **spec: Any) -> str:
    with pytest.raises(UnsupportedFeature) as raised:
        encode(model, **spec)
    return raised.value.field


def effort(word: str) -> dict[str, str]:
    return {"reasoningEffort": f"REASONING_EFFORT_{word.upper()}"}


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-4-opus-20250514", "claude-opus-4-0"),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("us.anthropic.claude-opus-4-7", "claude-opus-4-7"),
        ("anthropic/claude-opus-4.7", "claude-opus-4-7"),
        ("anthropic/claude-4.7-opus", "claude-opus-4-7"),
        ("claude-3.7-sonnet", "claude-3-7-sonnet-latest"),
        ("claude-opus-4-6@20260101", "claude-opus-4-6"),
        ("claude-sonnet-latest", "claude-sonnet-5-5"),
        ("claude-opus-17", "claude-opus-5-5"),
    ],
)
def test_names_of_one_generation(name: str, like: str) -> None:
    assert traits_of(name) is traits_of(like)
    assert traits_of(name) is not OTHER


@pytest.mark.parametrize("name", ["deepseek-chat", "claude-like", "my-claude-2000"])
def test_names_of_others(name: str) -> None:
    assert traits_of(name) is OTHER


def test_generations_differ() -> None:
    names = ["opus-5-5", "opus-5", "opus-4-8", "opus-4-6", "opus-4-5", "opus-4-1", "sonnet-5-5", "haiku-4-5"]
    assert len({traits_of(f"claude-{name}") for name in names}) == len(names)


OLD = "claude-opus-4-1"
BUDGET = "claude-haiku-4-5"
EITHER = "claude-sonnet-4-6"
LATER = "claude-opus-4-8"
DEFAULT = "claude-opus-5"
ALWAYS = "claude-opus-5-5"
BETWEEN = "claude-sonnet-5-5"
NEVER = "claude-3-5-haiku-20241022"
FOREIGN = "deepseek-chat"


@pytest.mark.parametrize(
    ("model", "spec", "said"),
    [
        (BUDGET, {}, (None, None, 64_000)),
        (BUDGET, {"reasoningBudgetTokens": 4000}, ({"type": "enabled", "budget_tokens": 4000}, None, 64_000)),
        (BUDGET, {"reasoningBudgetTokens": 90_000}, ({"type": "enabled", "budget_tokens": 63_999}, None, 64_000)),
        (
            BUDGET,
            {"reasoningBudgetTokens": 4000, "sampling": {"maxOutputTokens": 2000}},
            ({"type": "enabled", "budget_tokens": 1999}, None, 2000),
        ),
        (BUDGET, {"reasoningBudgetTokens": 0, **effort("max")}, (None, None, 64_000)),
        (BUDGET, effort("minimal"), ({"type": "enabled", "budget_tokens": 1024}, None, 64_000)),
        (BUDGET, effort("medium"), ({"type": "enabled", "budget_tokens": 8192}, None, 64_000)),
        (
            BUDGET,
            {**effort("max"), "sampling": {"maxOutputTokens": 4000}},
            ({"type": "enabled", "budget_tokens": 2000}, None, 4000),
        ),
        (BUDGET, effort("none"), (None, None, 64_000)),
        ("claude-opus-4-5", effort("max"), ({"type": "enabled", "budget_tokens": 32_000}, "high", 64_000)),
        (
            "claude-sonnet-4-0",
            {"reasoningBudgetTokens": 9000},
            ({"type": "enabled", "budget_tokens": 9000}, None, 17_192),
        ),
        (
            "claude-opus-4-1",
            {"reasoningBudgetTokens": 40_000},
            ({"type": "enabled", "budget_tokens": 31_999}, None, 32_000),
        ),
        (EITHER, effort("xhigh"), ({"type": "adaptive"}, "high", 128_000)),
        (EITHER, effort("max"), ({"type": "adaptive"}, "max", 128_000)),
        (EITHER, {"reasoningBudgetTokens": 2000}, ({"type": "enabled", "budget_tokens": 2000}, None, 128_000)),
        (EITHER, effort("none"), (None, None, 128_000)),
        (LATER, effort("xhigh"), ({"type": "adaptive"}, "xhigh", 128_000)),
        (LATER, effort("minimal"), ({"type": "adaptive"}, "low", 128_000)),
        (DEFAULT, effort("high"), (None, "high", 128_000)),
        (DEFAULT, effort("none"), ({"type": "disabled"}, None, 128_000)),
        (DEFAULT, {"reasoningBudgetTokens": 0}, ({"type": "disabled"}, None, 128_000)),
        (BETWEEN, effort("none"), ({"type": "between_tools"}, None, 128_000)),
        (ALWAYS, effort("low"), (None, "low", 128_000)),
        (NEVER, effort("none"), (None, None, 8192)),
        (FOREIGN, effort("none"), ({"type": "disabled"}, None, 8192)),
        (FOREIGN, effort("high"), ({"type": "enabled", "budget_tokens": 16_384}, None, 24_576)),
    ],
)
def test_how_much_to_think(model: str, spec: dict[str, Any], said: Any) -> None:
    assert encode(model, **spec) == said


@pytest.mark.parametrize(
    ("model", "spec", "said"),
    [
        (BUDGET, {"includeReasoning": True}, None),
        (
            BUDGET,
            {"includeReasoning": False, **effort("low")},
            {"type": "enabled", "budget_tokens": 2048, "display": "omitted"},
        ),
        (LATER, {"includeReasoning": True, **effort("low")}, {"type": "adaptive", "display": "summarized"}),
        (LATER, {"includeReasoning": True}, None),
        (DEFAULT, {"includeReasoning": True}, {"type": "adaptive", "display": "summarized"}),
        (ALWAYS, {"includeReasoning": False}, {"type": "adaptive", "display": "omitted"}),
        (DEFAULT, {"includeReasoning": True, **effort("none")}, {"type": "disabled"}),
        (NEVER, {"includeReasoning": False}, None),
        (FOREIGN, {"includeReasoning": True}, None),
        (FOREIGN, {"includeReasoning": False, **effort("none")}, {"type": "disabled"}),
    ],
)
def test_whether_thoughts_are_shown(model: str, spec: dict[str, Any], said: Any) -> None:
    assert encode(model, **spec)[0] == said


@pytest.mark.parametrize(
    ("model", "spec", "field"),
    [
        (ALWAYS, effort("none"), "reasoning_effort"),
        (ALWAYS, {"reasoningBudgetTokens": 0}, "reasoning_budget_tokens"),
        (LATER, {"reasoningBudgetTokens": 2000}, "reasoning_budget_tokens"),
        (BUDGET, {"reasoningBudgetTokens": 1000}, "reasoning_budget_tokens"),
        (BUDGET, {**effort("low"), "sampling": {"maxOutputTokens": 2000}}, "reasoning_effort"),
        (NEVER, effort("low"), "reasoning_effort"),
        (NEVER, {"reasoningBudgetTokens": 2000}, "reasoning_budget_tokens"),
        (FOREIGN, {"includeReasoning": False}, "include_reasoning"),
        (BUDGET, {**effort("low"), "sampling": {"temperature": 0.5}}, "sampling.temperature"),
        (EITHER, {**effort("low"), "sampling": {"topK": 5}}, "sampling.top_k"),
        (EITHER, {**effort("low"), "sampling": {"topP": 0.9}}, "sampling.top_p"),
    ],
)
def test_thinking_that_the_model_would_refuse(model: str, spec: dict[str, Any], field: str) -> None:
    assert refused(model, **spec) == field


def test_sampling_that_goes_with_thinking() -> None:
    assert encode(BUDGET, **effort("low"), sampling={"temperature": 1, "topP": 0.95})[0]["type"] == "enabled"
    assert encode(FOREIGN, **effort("low"), sampling={"temperature": 0.5})[0]["type"] == "enabled"


def test_least_thought_is_dispensable_where_there_is_none() -> None:
    with pytest.raises(Dispensable):
        encode(NEVER, **effort("minimal"))
    with pytest.raises(UnsupportedFeature) as refused:
        encode(NEVER, **effort("low"))
    assert not isinstance(refused.value, Dispensable)
    assert encode(NEVER, reasoningBudgetTokens=0) == (None, None, 8192)


def test_every_effort_is_known() -> None:
    for word in ReasoningEffort.DESCRIPTOR.values_by_name:
        encode(BUDGET, reasoningEffort=word)


def conversation(signature: bytes = b"") -> list[dict[str, Any]]:
    thought = {"reasoning": {"text": "hm", "signature": base64.b64encode(signature).decode()}}
    return [
        {"role": "ROLE_USER", "parts": [{"text": {"text": "a"}}]},
        {"role": "ROLE_ASSISTANT", "parts": [thought, {"toolCall": {"id": "a", "name": "f"}}]},
        {"role": "ROLE_TOOL", "parts": [{"toolResult": {"callId": "a"}}]},
    ]


def test_a_budget_wants_the_thoughts_behind_the_calls_that_were_answered() -> None:
    spec = {"messages": conversation(), **effort("low")}
    for signature in (b"", b"~google~c2ln", b"\xff"):
        assert refused(BUDGET, messages=conversation(signature), **effort("low")) == "reasoning_effort"
    assert encode(LATER, **spec)[0] == {"type": "adaptive"}
    assert encode(FOREIGN, **spec)[0]["type"] == "enabled"
    for signature in (b"c2ln", b"~anthropic~c2ln"):
        assert encode(BUDGET, messages=conversation(signature), **effort("low"))[0]["type"] == "enabled"
