from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from dragoman.v1 import message_pb2, sampling_pb2, tool_pb2
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import Dispensable, InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.openai_chat.request import FIELDS, encode_request
from dragoman_server.providers.signatures import mark_of
from dragoman_server.providers.vendors import UNKNOWN, Quirks, vendor_of_host, vendors
from tests.support.generation import chat

MARK = mark_of("google")


def encode(spec: ChatSpec | dict[str, Any], *, incremental: bool = False, quirks: Quirks | None = None) -> Any:
    message = ParseDict(spec, ChatSpec()) if isinstance(spec, dict) else spec
    return json.loads(
        encode_request(GenerationRequest(message, "up", incremental=incremental), quirks or Quirks(), MARK)
    )


def parts(role: str, *parts: dict[str, Any], **fields: Any) -> Any:
    """Returns the message that a message of these parts becomes."""
    body = encode({"messages": [{"role": f"ROLE_{role.upper()}", "parts": list(parts), **fields}]})
    (message,) = body["messages"]
    return message


def test_the_smallest_request() -> None:
    assert encode(chat("hi")) == {"model": "up", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stream_asks_for_usage() -> None:
    body = encode(chat("hi", model="alias"), incremental=True)
    assert body["model"] == "up"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


SAMPLING: dict[str, Any] = {
    "temperature": 0,
    "topP": 0.5,
    "topK": 0,
    "minP": 0.1,
    "frequencyPenalty": -1,
    "presencePenalty": 2,
    "repetitionPenalty": 1.1,
    "seed": "-7",
    "stop": ["a", "b"],
    "maxOutputTokens": 9,
    "logitBias": {"5": -100},
    "logprobs": True,
    "topLogprobs": 0,
    "choiceCount": 3,
}


def test_sampling() -> None:
    body = encode({"sampling": SAMPLING})
    assert body == {
        "model": "up",
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.1,
        "frequency_penalty": -1,
        "presence_penalty": 2,
        "repetition_penalty": 1.1,
        "seed": -7,
        "stop": ["a", "b"],
        "max_tokens": 9,
        "logit_bias": {"5": -100},
        "logprobs": True,
        "top_logprobs": 0,
    }


def test_the_name_of_the_token_limit_is_a_quirk() -> None:
    body = encode({"sampling": {"maxOutputTokens": 9}}, quirks=Quirks(max_tokens_field="max_completion_tokens"))
    assert body == {"model": "up", "max_completion_tokens": 9}
    for host in ("api.openai.com", "eu.openai.azure.com"):
        vendor = vendor_of_host(host)
        assert vendor is not None
        assert vendor.quirks.max_tokens_field == "max_completion_tokens"
    assert vendor_of_host("notapi.openai.com.example.org") is vendor_of_host("127.0.0.1") is None


def test_servers_may_lack_the_developer_and_name_the_seed() -> None:
    spec = {
        "messages": [{"role": "ROLE_DEVELOPER", "parts": [{"text": {"text": "Be brief."}}]}],
        "sampling": {"seed": 7},
    }
    assert encode(spec) == {"model": "up", "messages": [{"role": "developer", "content": "Be brief."}], "seed": 7}
    quirks = Quirks(developer_role=False, seed_field="random_seed")
    system = {"role": "system", "content": "Be brief."}
    assert encode(spec, quirks=quirks) == {"model": "up", "messages": [system], "random_seed": 7}
    assert encode(spec, quirks=UNKNOWN)["messages"] == [system]


def test_thoughts_of_the_past_stand_where_the_server_takes_them() -> None:
    thought = {"reasoning": {"text": "hm"}}
    hidden = {"reasoning": {"signature": "eA==", "redacted": True}}
    spec = {
        "messages": [
            {"role": "ROLE_USER", "parts": [{"text": {"text": "a"}}]},
            {"role": "ROLE_ASSISTANT", "parts": [thought, hidden, {"text": {"text": "b"}}]},
            {"role": "ROLE_ASSISTANT", "parts": [hidden]},
            {"role": "ROLE_ASSISTANT", "parts": [thought]},
        ]
    }

    def said(vendor: str) -> Any:
        return encode(spec, quirks=vendors()[vendor].quirks)["messages"][1:]

    answer = {"role": "assistant", "content": "b"}
    alone = {"role": "assistant", "content": None}
    assert said("deepseek") == [{**answer, "reasoning_content": "hm"}, {**alone, "reasoning_content": "hm"}]
    assert said("cerebras") == [{**answer, "reasoning": "hm"}, {**alone, "reasoning": "hm"}]
    for strict in ("openai", "mistral", "groq"):
        assert said(strict) == [answer]


def test_streams_of_some_servers_bring_their_usage_unasked() -> None:
    assert encode({}, incremental=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in encode({}, incremental=True, quirks=Quirks(stream_usage=False))
    openai = vendors()["openai"].quirks
    assert encode({}, incremental=True, quirks=openai)["stream_options"] == {
        "include_usage": True,
        "include_obfuscation": False,
    }
    assert "stream_options" not in encode({}, quirks=openai)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"sampling": {"topK": 1}}, "sampling.top_k"),
        ({"user": "u"}, "user"),
        ({"sampling": {"seed": 0}}, "sampling.seed"),
    ],
)
def test_what_a_server_does_not_know_is_refused_by_its_path(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        encode(spec, quirks=Quirks(unsupported=frozenset({"sampling.top_k", "user", "sampling.seed"})))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"reasoningBudgetTokens": 5}, "reasoning_budget_tokens"),
        ({"safetySettings": [{"category": "c", "threshold": "t"}]}, "safety_settings"),
        ({"includeReasoning": False}, "include_reasoning"),
    ],
)
def test_new_fields_without_a_word_are_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        encode(spec)
    assert caught.value.field == field


def test_a_budget_of_no_thoughts_is_dispensable() -> None:
    with pytest.raises(Dispensable) as caught:
        encode({"reasoningBudgetTokens": 0})
    assert caught.value.field == "reasoning_budget_tokens"
    with pytest.raises(UnsupportedFeature) as refused:
        encode({"reasoningBudgetTokens": 1})
    assert not isinstance(refused.value, Dispensable)


def test_every_field_of_the_contract_has_a_word() -> None:
    """A field without one is refused at run time, but should not be left so."""
    wordless = {"safety_settings"}
    assert FIELDS.keys() | wordless == set(ChatSpec.DESCRIPTOR.fields_by_name)
    assert SAMPLING.keys() == {field.json_name for field in sampling_pb2.Sampling.DESCRIPTOR.fields}


def test_marks_and_options_of_the_caller() -> None:
    spec = {
        "parallelToolCalls": False,
        "reasoningEffort": "REASONING_EFFORT_XHIGH",
        "verbosity": "VERBOSITY_LOW",
        "modalities": ["MODALITY_TEXT", "MODALITY_AUDIO"],
        "audio": {"voice": "v", "format": "wav"},
        "prediction": {"parts": [{"text": {"text": "guess"}}]},
        "serviceTier": "flex",
        "user": "u",
        "safetyIdentifier": "s",
        "promptCacheKey": "k",
        "promptCacheRetention": "24h",
        "metadata": {"a": "b"},
        "store": False,
        "webSearchOptionsJson": '{"search_context_size":"low"}',
        "chatTemplateKwargsJson": '{"enable_thinking":false}',
        "moderationJson": '{"model":"m"}',
        "promptCacheOptionsJson": '{"mode":"explicit"}',
    }
    assert encode(spec) == {
        "model": "up",
        "parallel_tool_calls": False,
        "reasoning_effort": "xhigh",
        "verbosity": "low",
        "modalities": ["text", "audio"],
        "audio": {"voice": "v", "format": "wav"},
        "prediction": {"type": "content", "content": "guess"},
        "service_tier": "flex",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "metadata": {"a": "b"},
        "store": False,
        "web_search_options": {"search_context_size": "low"},
        "chat_template_kwargs": {"enable_thinking": False},
        "moderation": {"model": "m"},
        "prompt_cache_options": {"mode": "explicit"},
    }


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_roles_and_names(role: str) -> None:
    assert parts(role, {"text": {"text": "x"}}, name="n") == {"role": role, "name": "n", "content": "x"}


def test_parts_of_a_user() -> None:
    message = parts(
        "user",
        {"text": {"text": "look"}},
        {"image": {"url": "https://example.org/x.png", "detail": "IMAGE_DETAIL_LOW"}},
        {"image": {"data": "AAEC", "mediaType": "image/png"}},
        {"audio": {"data": "AAEC", "format": "wav"}},
        {"file": {"data": "AAEC", "mediaType": "application/pdf", "filename": "x.pdf"}},
        {"file": {"fileId": "f1"}, "cacheBreakpoint": {"ttl": "30m"}},
    )
    assert message["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
        {"type": "input_audio", "input_audio": {"data": "AAEC", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAEC", "filename": "x.pdf"}},
        {
            "type": "file",
            "file": {"file_id": "f1"},
            "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"},
        },
    ]


def test_a_mark_of_the_cache_is_kept_on_a_single_text() -> None:
    message = parts("user", {"text": {"text": "x"}, "cacheBreakpoint": {}})
    assert message["content"] == [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}]


def test_parts_of_an_assistant() -> None:
    message = parts(
        "assistant",
        {"reasoning": {"text": "hm"}},
        {"text": {"text": "ok"}},
        {"toolCall": {"id": "a", "name": "f", "arguments": "{}"}},
        {"toolCall": {"id": "b", "name": "g", "arguments": "x", "kind": "TOOL_KIND_CUSTOM"}},
    )
    assert message == {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "ok",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "custom", "custom": {"name": "g", "input": "x"}},
        ],
    }
    assert parts("assistant", {"toolCall": {"id": "a", "name": "f"}})["content"] is None
    assert parts("assistant", {"refusal": {"text": "no"}})["content"] == [{"type": "refusal", "refusal": "no"}]
    assert parts("assistant", {"audio": {"audioId": "x"}}) == {
        "role": "assistant",
        "audio": {"id": "x"},
        "content": None,
    }


def test_results_of_tools() -> None:
    spec = {
        "messages": [
            {
                "role": "ROLE_TOOL",
                "parts": [
                    {"toolResult": {"callId": "a", "parts": [{"text": {"text": "1"}}]}},
                    {"toolResult": {"callId": "b", "parts": [{"text": {"text": "2"}}, {"text": {"text": "3"}}]}},
                    {"toolResult": {"callId": "c"}},
                ],
            }
        ]
    }
    assert encode(spec)["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {
            "role": "tool",
            "tool_call_id": "b",
            "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}],
        },
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]


def test_tools() -> None:
    tools = [
        {"function": {"name": "f", "description": "d", "parametersJson": '{"type":"object"}', "strict": False}},
        {"function": {"name": "g"}},
        {"custom": {"name": "c", "description": "d"}},
        {"custom": {"name": "r", "grammar": {"syntax": "GRAMMAR_SYNTAX_REGEX", "definition": "a+"}}},
    ]
    assert encode({"tools": tools})["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False},
        },
        {"type": "function", "function": {"name": "g"}},
        {"type": "custom", "custom": {"name": "c", "description": "d"}},
        {
            "type": "custom",
            "custom": {"name": "r", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}},
        },
    ]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ({"mode": "TOOL_MODE_NONE"}, "none"),
        ({"mode": "TOOL_MODE_REQUIRED"}, "required"),
        ({"tool": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
        ({"tool": {"name": "f", "custom": True}}, {"type": "custom", "custom": {"name": "f"}}),
        (
            {"allowed": {"mode": "TOOL_MODE_AUTO", "tools": [{"name": "f"}]}},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
    ],
)
def test_tool_choice(choice: dict[str, Any], written: Any) -> None:
    assert encode({"toolChoice": choice})["tool_choice"] == written


@pytest.mark.parametrize(
    ("response_format", "written"),
    [
        ({"text": {}}, {"type": "text"}),
        ({"jsonObject": {}}, {"type": "json_object"}),
        (
            {"jsonSchema": {"name": "n", "description": "d", "schemaJson": '{"b":1,"a":2}', "strict": True}},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "schema": {"b": 1, "a": 2}, "strict": True},
            },
        ),
    ],
)
def test_response_format(response_format: dict[str, Any], written: Any) -> None:
    assert encode({"responseFormat": response_format})["response_format"] == written


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"responseFormat": {"grammar": {"syntax": "GRAMMAR_SYNTAX_GBNF"}}}, "response_format.grammar"),
        (
            {"tools": [{"custom": {"name": "c", "grammar": {"syntax": "GRAMMAR_SYNTAX_GBNF"}}}]},
            "tools[0].custom.grammar.syntax",
        ),
        (
            {"messages": [{"role": "ROLE_USER", "parts": [{"file": {"url": "https://x"}}]}]},
            "messages[0].parts[0]",
        ),
    ],
)
def test_what_the_dialect_has_no_word_for_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedFeature) as raised:
        encode(spec)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tools": [{"function": {"name": "f", "parametersJson": "{"}}]}, "tools[0].function.parameters_json"),
        ({"responseFormat": {"jsonSchema": {"schemaJson": "x"}}}, "response_format.json_schema.schema_json"),
        ({"moderationJson": "{'a': 1}"}, "moderation_json"),
        ({"messages": [{"parts": []}]}, "messages[0].role"),
        ({"messages": [{"role": "ROLE_TOOL", "parts": [{"text": {"text": "x"}}]}]}, "messages[0].parts[0]"),
        ({"tools": [{}]}, "tools[0]"),
    ],
)
def test_wrong_requests_name_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode(spec)
    assert raised.value.field == field


def test_every_word_of_every_enum_is_that_of_the_dialect() -> None:
    """The words are made from the names, so the names must keep their form."""
    for enum in (
        *(message_pb2.ImageDetail, sampling_pb2.ReasoningEffort, sampling_pb2.Verbosity, sampling_pb2.Modality),
        *(tool_pb2.ToolMode, tool_pb2.GrammarSyntax),
    ):
        prefix = enum.DESCRIPTOR.name.upper()
        for name in enum.DESCRIPTOR.values_by_name:
            assert name.replace("_", "").startswith(prefix)


def test_only_a_signature_of_its_own_goes_back() -> None:
    def call_with(signature: bytes) -> Any:
        encoded = base64.b64encode(signature).decode()
        call = {"id": "a", "name": "f", "arguments": "{}", "signature": encoded}
        return parts("assistant", {"toolCall": call})["tool_calls"][0]

    plain = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = {**plain, "extra_content": {"google": {"thought_signature": "cHJvb2Y+"}}}
    assert call_with(b"") == call_with(mark_of("another") + b"proof>") == plain
    assert call_with(MARK + b"proof>") == call_with(b"proof>") == signed
