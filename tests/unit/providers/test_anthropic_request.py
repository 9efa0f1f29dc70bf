from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from dragoman.v1 import sampling_pb2
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.anthropic_messages.dialect import DIALECT
from dragoman_server.providers.anthropic_messages.request import FIELDS
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.vendors import Quirks
from tests.support.generation import chat

HAIKU = "claude-haiku-4-5"
MARK = b"~anthropic~"
PNG = base64.b64encode(b"\x89PNG").decode()


def encode(
    spec: ChatSpec | dict[str, Any], *, model: str = HAIKU, incremental: bool = False, quirks: Quirks | None = None
) -> Any:
    message = ParseDict(spec, ChatSpec()) if isinstance(spec, dict) else spec
    call = DIALECT.encode(GenerationRequest(message, model, incremental=incremental), quirks or Quirks(), MARK)
    assert call.path == "/messages"
    return json.loads(call.body)


def said(role: str, *parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": f"ROLE_{role.upper()}", "parts": list(parts), **fields}


def text(content: str, **fields: Any) -> dict[str, Any]:
    return {"text": {"text": content}, **fields}


def turns(*messages: dict[str, Any]) -> Any:
    return encode({"messages": list(messages)})["messages"]


def refused(spec: dict[str, Any], model: str = HAIKU, quirks: Quirks | None = None) -> str:
    """Returns the field that a request is refused for."""
    with pytest.raises(UnsupportedFeature) as raised:
        encode(spec, model=model, quirks=quirks)
    return raised.value.field


def test_the_smallest_request() -> None:
    assert encode(chat("hi")) == {
        "model": HAIKU,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert encode(chat("hi"), incremental=True)["stream"] is True


def test_the_version_of_the_api_is_a_header() -> None:
    assert DIALECT.headers == {"anthropic-version": "2023-06-01"}
    assert DIALECT.auth == "x-api-key"


# Messages


def test_instructions_are_apart_from_the_conversation() -> None:
    body = encode(
        {
            "messages": [
                said("system", text("one"), text("two", cacheBreakpoint={"ttl": "1h"})),
                said("user", text("hi")),
                said("developer", text("three", cacheBreakpoint={})),
            ]
        }
    )
    assert body["system"] == [
        {"type": "text", "text": "one"},
        {"type": "text", "text": "two", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "three", "cache_control": {"type": "ephemeral"}},
    ]
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_turns_alternate() -> None:
    assert turns(said("user", text("a")), said("user", text("b")), said("assistant", text("c"))) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
    ]


def test_what_says_nothing_is_not_sent() -> None:
    assert turns(
        said("user", text("a"), text("")), said("assistant", text(" \n")), said("user", text("b")), said("assistant")
    ) == [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]


def test_the_name_of_a_speaker_is_told_before_the_text() -> None:
    assert turns(said("user", {"image": {"url": "https://x/y"}}, text("hi"), name="Ann"))[0]["content"][1] == {
        "type": "text",
        "text": "Ann: hi",
    }


def test_images_and_documents() -> None:
    pdf = base64.b64encode(b"%PDF-1.7").decode()
    (turn,) = turns(
        said(
            "user",
            {"image": {"data": PNG, "mediaType": "image/png", "detail": "IMAGE_DETAIL_AUTO"}},
            {"image": {"url": "https://example.org/x.png"}, "cacheBreakpoint": {"ttl": "5m"}},
            {"file": {"data": pdf, "mediaType": "application/pdf", "filename": "x.pdf"}},
            {"file": {"data": pdf}},
            {"file": {"data": base64.b64encode("é".encode()).decode(), "mediaType": "text/markdown"}},
            {"file": {"url": "https://example.org/x.pdf"}},
            {"file": {"fileId": "file_1"}},
            {"file": {"data": PNG, "mediaType": "image/png"}},
        )
    )
    base64_pdf = {"type": "base64", "media_type": "application/pdf", "data": pdf}
    base64_png = {"type": "base64", "media_type": "image/png", "data": PNG}
    assert turn["content"] == [
        {"type": "image", "source": base64_png},
        {
            "type": "image",
            "source": {"type": "url", "url": "https://example.org/x.png"},
            "cache_control": {"type": "ephemeral", "ttl": "5m"},
        },
        {"type": "document", "source": base64_pdf, "title": "x.pdf"},
        {"type": "document", "source": base64_pdf},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/x.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "image", "source": base64_png},
    ]


def test_results_come_first_in_one_turn_of_the_user() -> None:
    body = turns(
        said("assistant", {"toolCall": {"id": "a", "name": "f"}}, {"toolCall": {"id": "b", "name": "g"}}),
        said("user", text("meanwhile")),
        said("tool", {"toolResult": {"callId": "a", "parts": [text("1")]}}),
        said(
            "tool",
            {
                "toolResult": {
                    "callId": "b",
                    "isError": True,
                    "parts": [text("2"), {"image": {"data": PNG, "mediaType": "image/png"}}],
                },
                "cacheBreakpoint": {},
            },
            {"toolResult": {"callId": "c"}},
        ),
        said("user", text("go on")),
    )
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert body[1:] == [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": [{"type": "text", "text": "2"}, image],
                    "is_error": True,
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "meanwhile"},
                {"type": "text", "text": "go on"},
            ],
        }
    ]


def test_past_calls_have_objects_for_arguments() -> None:
    (turn,) = turns(
        said(
            "assistant",
            text("let me see"),
            {"toolCall": {"id": "call.1:x", "name": "f", "arguments": '{"b": 1, "a": [2]}'}},
            {"toolCall": {"id": "b", "name": "g", "arguments": " "}},
            {"refusal": {"text": "no"}},
        )
    )
    assert turn["content"] == [
        {"type": "text", "text": "let me see"},
        {"type": "tool_use", "id": "call_2e_1_3a_x", "name": "f", "input": {"b": 1, "a": [2]}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        {"type": "text", "text": "no"},
    ]


def test_ids_of_other_providers_stay_paired() -> None:
    body = turns(
        said("assistant", {"toolCall": {"id": "f:0", "name": "f"}}),
        said("tool", {"toolResult": {"callId": "f:0"}}),
    )
    assert body[0]["content"][0]["id"] == body[1]["content"][0]["tool_use_id"] == "f_3a_0"


def test_past_thoughts_go_back_unchanged_if_they_are_the_providers_own() -> None:
    def signed(signature: bytes) -> str:
        return base64.b64encode(signature).decode()

    (turn,) = turns(
        said(
            "assistant",
            {"reasoning": {"text": "hm", "signature": signed(b"EqoB+/==")}},
            {"reasoning": {"signature": signed(b"c2Vjcg=="), "redacted": True}},
            {"reasoning": {"text": "", "signature": signed(b"omitted")}},
            {"reasoning": {"text": "marked", "signature": signed(MARK + b"EqoC")}},
            {"reasoning": {"text": "another provider's"}},
            {"reasoning": {"text": "another provider's", "signature": signed(b"~deepseek~EqoD")}},
            {"reasoning": {"signature": signed(b"~deepseek~EqoD"), "redacted": True}},
            {"reasoning": {"text": "tampered with", "signature": signed(MARK + b"\xff")}},
            {"reasoning": {"text": "another provider's", "signature": signed(b"\x00\xff")}},
            text("so"),
        )
    )
    assert turn["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "EqoB+/=="},
        {"type": "redacted_thinking", "data": "c2Vjcg=="},
        {"type": "thinking", "thinking": "", "signature": "omitted"},
        {"type": "thinking", "thinking": "marked", "signature": "EqoC"},
        {"type": "text", "text": "so"},
    ]


def test_past_thoughts_that_no_longer_fit_are_dropped_by_models_that_would_refuse_them() -> None:
    def call_of(signature: bytes, model: str, **spec: Any) -> tuple[Any, Any]:
        thought = {"reasoning": {"text": "hm", "signature": base64.b64encode(signature).decode()}}
        asked = {"messages": [said("user", text("a")), said("assistant", thought), said("user", text("b"))], **spec}
        call = DIALECT.encode(GenerationRequest(ParseDict(asked, ChatSpec()), model), Quirks(), MARK)
        return json.loads(call.body).get("thinking"), call.header

    beta = ("anthropic-beta", "thinking-binding-controls-2026-08-01")
    binding = {"prefix_mismatch_behavior": "drop_block"}
    own = MARK + b"EqoB"
    for model in ("claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1", "claude-fable-5-2"):
        assert call_of(own, model) == ({"type": "adaptive", "block_binding": binding}, beta)
        assert call_of(b"~google~EqoB", model) == (None, None)
    for model in ("claude-opus-5", "claude-fable-5", "claude-haiku-5-5", "claude-haiku-4-5", "deepseek-chat"):
        assert call_of(own, model) == (None, None)
    shown, header = call_of(own, "claude-opus-5-5", includeReasoning=True)
    assert (shown, header) == ({"type": "adaptive", "display": "summarized", "block_binding": binding}, beta)
    off = call_of(own, "claude-sonnet-5-5", reasoningEffort="REASONING_EFFORT_NONE")
    assert off == ({"type": "between_tools"}, None)


# Sampling


def test_sampling() -> None:
    sampling = {"temperature": 0.5, "topK": 7, "stop": ["a", "b"], "maxOutputTokens": 9, "choiceCount": 3}
    assert encode({"sampling": sampling}) == {
        "model": HAIKU,
        "temperature": 0.5,
        "top_k": 7,
        "stop_sequences": ["a", "b"],
        "max_tokens": 9,
    }


def test_values_that_ask_for_nothing_are_no_hindrance() -> None:
    sampling = {
        "frequencyPenalty": 0,
        "presencePenalty": 0,
        "repetitionPenalty": 1,
        "minP": 0,
        "topK": 0,
        "topLogprobs": 0,
        "temperature": 1,
        "topP": 1,
        "logprobs": False,
    }
    assert encode({"sampling": sampling}, model="claude-opus-5-5").keys() == {"model", "max_tokens"}


SAMPLING: dict[str, Any] = {
    "minP": 0.1,
    "frequencyPenalty": -1,
    "presencePenalty": 2,
    "repetitionPenalty": 1.1,
    "seed": "0",
    "logitBias": {"5": -100},
    "logprobs": True,
    "topLogprobs": 2,
}


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_without_a_word(name: str) -> None:
    field = next(field.name for field in sampling_pb2.Sampling.DESCRIPTOR.fields if field.json_name == name)
    assert refused({"sampling": {name: SAMPLING[name]}}) == f"sampling.{field}"


@pytest.mark.parametrize(
    ("sampling", "model", "field"),
    [
        ({"temperature": 1.1}, HAIKU, "temperature"),
        ({"temperature": 0.5, "topP": 0.5}, HAIKU, "top_p"),
        ({"temperature": 0}, "claude-opus-4-7", "temperature"),
        ({"topP": 0.9}, "claude-haiku-5-5", "top_p"),
        ({"topK": 1}, "claude-sonnet-6", "top_k"),
        ({"stop": ["a", " \n"]}, HAIKU, "stop"),
    ],
)
def test_sampling_that_the_model_would_refuse(sampling: dict[str, Any], model: str, field: str) -> None:
    assert refused({"sampling": sampling}, model) == f"sampling.{field}"


def test_a_model_of_another_vendor_takes_all_sampling() -> None:
    body = encode({"sampling": {"temperature": 1, "topP": 0.5, "topK": 3}}, model="deepseek-chat")
    assert body == {"model": "deepseek-chat", "temperature": 1, "top_p": 0.5, "top_k": 3, "max_tokens": 8192}


# The form of the answer


def schema(text_: str, **fields: Any) -> dict[str, Any]:
    return {"responseFormat": {"jsonSchema": {"name": "n", "schemaJson": text_, **fields}}}


def test_an_answer_by_a_schema() -> None:
    wanted = {
        "type": "object",
        "properties": {"minimum": {"type": "integer", "minimum": 1}, "b": {"$ref": "#/$defs/b"}},
        "required": ["minimum"],
        "$defs": {"b": {"type": "array", "minItems": 2, "items": {"type": ["object", "null"], "properties": {}}}},
    }
    enforced = {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
        "required": ["minimum"],
        "$defs": {
            "b": {
                "type": "array",
                "items": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
            }
        },
        "additionalProperties": False,
    }
    assert encode(schema(json.dumps(wanted)))["output_config"] == {
        "format": {"type": "json_schema", "schema": enforced}
    }
    strictly = encode(schema(json.dumps(wanted), strict=True))["output_config"]["format"]["schema"]
    assert strictly["properties"]["minimum"] == {"type": "integer", "minimum": 1}
    assert strictly["additionalProperties"] is False
    assert encode({"responseFormat": {"text": {}}}) == encode({})


@pytest.mark.parametrize(
    ("spec", "model", "field"),
    [
        ({"responseFormat": {"jsonObject": {}}}, HAIKU, "response_format"),
        (schema(""), HAIKU, "response_format"),
        (schema('{"type":"object"}'), HAIKU, "response_format"),
        (schema('{"type":"object","properties":{},"additionalProperties":true}'), HAIKU, "response_format"),
        (schema('{"type":"object","properties":{}}'), "claude-opus-4-1", "response_format"),
        (schema('{"type":"object","properties":{}}'), "glm-5", "response_format"),
        ({"responseFormat": {"grammar": {"syntax": "GRAMMAR_SYNTAX_GBNF"}}}, HAIKU, "response_format.grammar"),
    ],
)
def test_forms_that_the_provider_cannot_give(spec: dict[str, Any], model: str, field: str) -> None:
    assert refused(spec, model) == field


# Tools

TOOL = {"function": {"name": "f", "description": "d", "parametersJson": '{"properties":{"a":{}}}', "strict": False}}
OTHER = {"function": {"name": "g", "strict": True}}


def test_tools() -> None:
    assert encode({"tools": [TOOL, OTHER]})["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {}}}},
        {
            "name": "g",
            "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
            "strict": True,
        },
    ]


def test_schemas_of_many_levels_are_refused() -> None:
    deep = '{"items":' * 900 + "{}" + "}" * 900
    assert refused(schema(deep)) == "response_format"
    assert refused({"tools": [{"function": {"name": "f", "parametersJson": deep, "strict": True}}]}).startswith("tools")
    with pytest.raises(InvalidRequest):
        encode({"tools": [{"function": {"name": "f", "parametersJson": deep}}]})


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        ({}, None),
        ({"parallelToolCalls": True}, None),
        ({"parallelToolCalls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"toolChoice": {"mode": "TOOL_MODE_AUTO"}}, None),
        ({"toolChoice": {"mode": "TOOL_MODE_NONE"}, "parallelToolCalls": False}, {"type": "none"}),
        ({"toolChoice": {"mode": "TOOL_MODE_REQUIRED"}}, {"type": "any"}),
        (
            {"toolChoice": {"tool": {"name": "f"}}, "parallelToolCalls": False},
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_tool_choice(spec: dict[str, Any], written: Any) -> None:
    assert encode({"tools": [TOOL], **spec}).get("tool_choice") == written


def test_allowed_tools_are_the_only_ones() -> None:
    allowed = {"mode": "TOOL_MODE_REQUIRED", "tools": [{"name": "g"}]}
    body = encode({"tools": [TOOL, OTHER], "toolChoice": {"allowed": allowed}})
    assert [tool["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize(
    ("spec", "model", "field"),
    [
        ({"tools": [{"custom": {"name": "c"}}]}, HAIKU, "tools[0].custom"),
        ({"tools": [TOOL], "toolChoice": {"tool": {"name": "c", "custom": True}}}, HAIKU, "tool_choice.tool.custom"),
        ({"tools": [OTHER]}, "claude-3-haiku-20240307", "tools[0].function.strict"),
        ({"tools": [TOOL], "toolChoice": {"mode": "TOOL_MODE_REQUIRED"}}, "claude-opus-5-5", "tool_choice"),
        ({"tools": [TOOL], "toolChoice": {"tool": {"name": "f"}}}, "claude-sonnet-5-5", "tool_choice"),
        (
            {"tools": [TOOL], "toolChoice": {"tool": {"name": "f"}}, "reasoningEffort": "REASONING_EFFORT_LOW"},
            HAIKU,
            "reasoning_effort",
        ),
    ],
)
def test_tools_that_the_model_cannot_call(spec: dict[str, Any], model: str, field: str) -> None:
    assert refused(spec, model) == field


# The caller's marks


def test_marks_of_the_caller() -> None:
    body = encode(
        {
            "user": "u",
            "safetyIdentifier": "s",
            "serviceTier": "default",
            "promptCacheRetention": "1h",
            "store": False,
            "verbosity": "VERBOSITY_MEDIUM",
            "modalities": ["MODALITY_TEXT"],
            "taskProfile": "TASK_PROFILE_CODING",
        }
    )
    assert body == {
        "model": HAIKU,
        "max_tokens": 64_000,
        "metadata": {"user_id": "s"},
        "service_tier": "standard_only",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    assert encode({"user": "u"})["metadata"] == {"user_id": "u"}


NO_WORD: dict[str, Any] = {
    "verbosity": "VERBOSITY_LOW",
    "modalities": ["MODALITY_TEXT", "MODALITY_AUDIO"],
    "audio": {"voice": "v", "format": "wav"},
    "prediction": {"parts": [text("guess")]},
    "serviceTier": "flex",
    "promptCacheKey": "k",
    "promptCacheRetention": "24h",
    "metadata": {"a": "b"},
    "store": True,
    "webSearchOptionsJson": "{}",
    "chatTemplateKwargsJson": "{}",
    "moderationJson": "{}",
    "promptCacheOptionsJson": "{}",
    "safetySettings": [{"category": "c", "threshold": "t"}],
}


@pytest.mark.parametrize("name", NO_WORD)
def test_what_the_api_has_no_word_for_is_refused(name: str) -> None:
    field = next(field.name for field in ChatSpec.DESCRIPTOR.fields if field.json_name == name)
    assert refused({name: NO_WORD[name]}) == field


def test_every_field_of_the_contract_is_written_or_refused_on_purpose() -> None:
    refused_fields = {field.name for field in ChatSpec.DESCRIPTOR.fields if field.json_name in NO_WORD}
    assert FIELDS.keys() | refused_fields == set(ChatSpec.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"audio": {"data": "AA==", "format": "wav"}}, ""),
        ({"image": {"data": PNG, "mediaType": "image/bmp"}}, ".image.media_type"),
        ({"image": {"url": "https://x/y", "detail": "IMAGE_DETAIL_HIGH"}}, ".image.detail"),
        ({"file": {"data": PNG, "mediaType": "application/zip"}}, ".file.media_type"),
        (text("a", cacheBreakpoint={"ttl": "30m"}), ".cache_breakpoint.ttl"),
    ],
)
def test_parts_that_the_api_does_not_read(part: dict[str, Any], field: str) -> None:
    assert refused({"messages": [said("user", part)]}) == f"messages[0].parts[0]{field}"


def test_other_parts_than_text_are_no_instructions() -> None:
    assert refused({"messages": [said("system", {"image": {"url": "https://x"}})]}) == "messages[0].parts[0]"


def test_a_custom_call_of_the_past_is_refused() -> None:
    call = {"toolCall": {"id": "a", "name": "f", "arguments": "x", "kind": "TOOL_KIND_CUSTOM"}}
    assert refused({"messages": [said("assistant", call)]}) == "messages[0].parts[0].tool_call"


@pytest.mark.parametrize("field", ["service_tier", "sampling.top_k", "response_format.json_schema"])
def test_quirks_of_the_server_are_refused(field: str) -> None:
    spec = {"serviceTier": "auto", "sampling": {"topK": 1}, **schema('{"type":"object","properties":{}}')}
    encode(spec)
    found = refused(spec, quirks=Quirks(unsupported=frozenset({field})))
    assert field.startswith(found)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tools": [{"function": {"name": "f", "parametersJson": "{"}}]}, "tools[0].function.parameters_json"),
        ({"tools": [{"function": {"name": "f", "parametersJson": "[]"}}]}, "tools[0].function.parameters_json"),
        (schema("x"), "response_format.json_schema.schema_json"),
        ({"messages": [{"parts": []}]}, "messages[0].role"),
        ({"messages": [said("tool", text("x"))]}, "messages[0].parts[0]"),
        ({"messages": [said("user", {"file": {}})]}, "messages[0].parts[0].file"),
        (
            {"messages": [said("user", {"file": {"data": "/w==", "mediaType": "text/plain"}})]},
            "messages[0].parts[0].file.data",
        ),
        (
            {"messages": [said("assistant", {"toolCall": {"id": "a", "name": "f", "arguments": '{"a"'}})]},
            "messages[0].parts[0].tool_call.arguments",
        ),
        (
            {"messages": [said("assistant", {"toolCall": {"id": "a", "name": "f", "arguments": "[1]"}})]},
            "messages[0].parts[0].tool_call.arguments",
        ),
        ({"tools": [{}]}, "tools[0]"),
    ],
)
def test_wrong_requests_name_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        encode(spec)
    assert raised.value.field == field
    assert not isinstance(raised.value, UnsupportedFeature)
