from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import TOOL_KIND_FUNCTION, ToolCall
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_edge.dialects.openai.answer import AnswerOptions, render_completion
from dragoman_edge.dialects.openai.request import check_request
from dragoman_edge.dialects.openai.schemas import ChatCompletionRequest
from dragoman_edge.dialects.openai.to_proto import fill_chat_spec
from dragoman_edge.errors import EdgeError

USER = {"role": "user", "content": "hi"}
FUNCTION_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM_CALL = {"id": "b", "type": "custom", "custom": {"name": "c", "input": "x"}}
PIXEL = base64.b64encode(b"\x89PNG pixel").decode()


def spec_of(**members: Any) -> ChatSpec:
    spec = ChatSpec()
    fill_chat_spec(spec, check_request({"messages": [USER]} | members))
    return spec


def as_dict(spec: ChatSpec) -> dict[str, Any]:
    answer: dict[str, Any] = MessageToDict(spec, preserving_proto_field_name=True)
    return answer


def refusal_of(**members: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        spec_of(**members)
    assert caught.value.reason is Reason.INVALID_REQUEST
    return caught.value


def test_every_parameter_of_the_official_sdk_is_known() -> None:
    official = set(CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert official <= set(ChatCompletionRequest.__annotations__)


def test_sampling() -> None:
    spec = spec_of(
        temperature=0.5,
        top_p=1,
        top_k=-1,
        min_p=0.1,
        frequency_penalty=-2,
        presence_penalty=2,
        repetition_penalty=1.1,
        seed=-5,
        stop="END",
        max_completion_tokens=7,
        logit_bias={"42": -100, "7": 1},
        logprobs=True,
        top_logprobs=20,
        n=128,
    )
    assert as_dict(spec)["sampling"] == {
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.1,
        "frequency_penalty": -2.0,
        "presence_penalty": 2.0,
        "repetition_penalty": 1.1,
        "seed": "-5",
        "stop": ["END"],
        "max_output_tokens": 7,
        "logit_bias": {"42": -100.0, "7": 1.0},
        "logprobs": True,
        "top_logprobs": 20,
        "choice_count": 128,
    }


def test_null_is_absent() -> None:
    nulls = dict.fromkeys(set(ChatCompletionRequest.__annotations__) - {"messages"})
    assert as_dict(spec_of(**nulls)) == as_dict(spec_of())


def test_everything_else() -> None:
    spec = spec_of(
        model="fast",
        reasoning_effort="xhigh",
        verbosity="low",
        modalities=["text", "audio"],
        audio={"voice": {"id": "voice_1"}, "format": "wav"},
        prediction={"type": "content", "content": [{"type": "text", "text": "again"}]},
        service_tier="flex",
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        prompt_cache_options={"mode": "explicit"},
        metadata={"a": "b"},
        store=False,
        moderation={"model": "m"},
        web_search_options={},
        chat_template_kwargs={"enable_thinking": True},
        task_profile="coding",
        token_type="spark",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    answer = as_dict(spec)
    del answer["messages"]
    assert answer == {
        "model": "fast",
        "reasoning_effort": "REASONING_EFFORT_XHIGH",
        "verbosity": "VERBOSITY_LOW",
        "modalities": ["MODALITY_TEXT", "MODALITY_AUDIO"],
        "audio": {"voice": "voice_1", "format": "wav"},
        "prediction": {"parts": [{"text": {"text": "again"}}]},
        "service_tier": "flex",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options_json": '{"mode":"explicit"}',
        "metadata": {"a": "b"},
        "store": False,
        "moderation_json": '{"model":"m"}',
        "web_search_options_json": "{}",
        "chat_template_kwargs_json": '{"enable_thinking":true}',
        "task_profile": "TASK_PROFILE_CODING",
        "token_type": "spark",
        "response_format": {"json_schema": {"name": "n", "schema_json": '{"type":"object"}', "strict": True}},
    }


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_simple_response_formats(kind: str) -> None:
    assert as_dict(spec_of(response_format={"type": kind}))["response_format"] == {kind: {}}


def test_tools() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}}
    spec = spec_of(
        tools=[
            {"type": "function", "function": function},
            {"type": "custom", "custom": {"name": "c", "format": grammar}},
        ],
        parallel_tool_calls=True,
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "c"}}],
            },
        },
    )
    answer = as_dict(spec)
    assert answer["tools"] == [
        {"function": {"name": "f", "description": "d", "parameters_json": '{"type":"object"}', "strict": False}},
        {"custom": {"name": "c", "grammar": {"syntax": "GRAMMAR_SYNTAX_LARK", "definition": "start: A"}}},
    ]
    assert answer["tool_choice"] == {
        "allowed": {"mode": "TOOL_MODE_REQUIRED", "tools": [{"name": "f"}, {"name": "c", "custom": True}]}
    }
    assert answer["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", {"mode": "TOOL_MODE_NONE"}),
        ("required", {"mode": "TOOL_MODE_REQUIRED"}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
        ({"type": "custom", "custom": {"name": "f"}}, {"tool": {"name": "f", "custom": True}}),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    spec = spec_of(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice=choice)
    assert as_dict(spec)["tool_choice"] == expected


def test_deprecated_functions() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "3"},
    ]
    spec = spec_of(messages=messages, functions=[{"name": "f"}], function_call={"name": "f"})
    answer = as_dict(spec)
    assert answer["tools"] == [{"function": {"name": "f"}}]
    assert answer["tool_choice"] == {"tool": {"name": "f"}}
    assert answer["parallel_tool_calls"] is False
    call = {"id": "call_1", "name": "f", "arguments": "{}", "kind": "TOOL_KIND_FUNCTION"}
    assert answer["messages"][1]["parts"] == [{"tool_call": call}]
    result = {"call_id": "call_1", "parts": [{"text": {"text": "3"}}]}
    assert answer["messages"][2] == {"role": "ROLE_TOOL", "parts": [{"tool_result": result}]}


def test_conversation() -> None:
    spec = spec_of(
        messages=[
            {"role": "system", "content": "s", "name": "sys"},
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {
                "role": "assistant",
                "content": "a",
                "reasoning_content": "hm",
                "refusal": "no",
                "audio": {"id": "x"},
                "tool_calls": [FUNCTION_CALL, CUSTOM_CALL],
                "function_call": None,
                "annotations": [],
                "name": "bot",
            },
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
            {"role": "tool", "content": "r", "tool_call_id": "a"},
        ]
    )
    assert as_dict(spec)["messages"] == [
        {"role": "ROLE_SYSTEM", "parts": [{"text": {"text": "s"}}], "name": "sys"},
        {"role": "ROLE_DEVELOPER", "parts": [{"text": {"text": "d"}}]},
        {
            "role": "ROLE_ASSISTANT",
            "name": "bot",
            "parts": [
                {"reasoning": {"text": "hm"}},
                {"text": {"text": "a"}},
                {"refusal": {"text": "no"}},
                {"audio": {"audio_id": "x"}},
                {"tool_call": {"id": "a", "name": "f", "arguments": "{}", "kind": "TOOL_KIND_FUNCTION"}},
                {"tool_call": {"id": "b", "name": "c", "arguments": "x", "kind": "TOOL_KIND_CUSTOM"}},
            ],
        },
        {"role": "ROLE_ASSISTANT", "parts": [{"refusal": {"text": "never"}}]},
        {"role": "ROLE_TOOL", "parts": [{"tool_result": {"call_id": "a", "parts": [{"text": {"text": "r"}}]}}]},
    ]


@pytest.mark.parametrize("signature", ["cHJvb2Y+Pw==", "cHJvb2Y-Pw=="])
def test_signed_tool_calls(signature: str) -> None:
    signed = {"extra_content": {"google": {"thought_signature": signature}}}
    spec = spec_of(messages=called({**FUNCTION_CALL, **signed}, {**CUSTOM_CALL, **signed}, FUNCTION_CALL))
    assert [part.tool_call.signature for part in spec.messages[0].parts] == [b"proof>?", b"proof>?", b""]


def test_an_answer_may_be_sent_back_as_it_is() -> None:
    call = ToolCall(id="a", name="f", arguments="{}", kind=TOOL_KIND_FUNCTION, signature=b"proof")
    run = Run(state=Run.STATE_COMPLETED)
    choice = run.choices.add(finish_reason=FinishReason.FINISH_REASON_TOOL_CALLS)
    choice.message.parts.add().reasoning.text = "hm"
    choice.message.parts.add().text.text = "Let me see."
    choice.message.parts.add().tool_call.CopyFrom(call)
    answered = json.loads(render_completion(run, AnswerOptions()))["choices"][0]["message"]
    assert spec_of(messages=[answered]).messages[0].parts == choice.message.parts


def test_media() -> None:
    parts = [
        {"type": "text", "text": "look", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"}},
        {
            "type": "image_url",
            "image_url": {"url": "https://example.com/a.png"},
            "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"},
        },
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PIXEL}", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": PIXEL}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    got = spec_of(messages=[{"role": "user", "content": parts}]).messages[0].parts
    raw = b"\x89PNG pixel"
    assert got[0].HasField("cache_breakpoint")
    assert (got[1].image.data, got[1].image.media_type) == (raw, "image/png")
    assert got[2].image.url == "https://example.com/a.png"
    assert got[2].cache_breakpoint.ttl == "12h"
    assert (got[3].audio.data, got[3].audio.format) == (raw, "wav")
    assert (got[4].file.data, got[4].file.media_type, got[4].file.filename) == (raw, "application/pdf", "a.pdf")
    assert got[5].file.data == raw
    assert got[6].file.file_id == "file-1"


def image(url: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def called(*calls: Any) -> list[Any]:
    return [{"role": "assistant", "tool_calls": list(calls)}]


def extra(content: Any) -> list[Any]:
    return called(FUNCTION_CALL, {**FUNCTION_CALL, "extra_content": content})


def function_tool(**members: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | members}


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"x" * 1000: 1}, "x" * 200, "unknown_parameter"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [5]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [USER, {"role": "user"}]}, "messages[1].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 4}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo", "unknown_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].name", "invalid_value"),
        ({"messages": image("data:image/png;base64,%%%")}, "messages[0].content[0].image_url.url", "invalid_base64"),
        ({"messages": image("data:image/png,abc")}, "messages[0].content[0].image_url.url", "invalid_base64"),
        ({"messages": image("data:image/png;base64,")}, "messages[0].content[0].image_url.url", "invalid_base64"),
        (
            {"messages": image("data:text/html;base64,YQ==")},
            "messages[0].content[0].image_url.url",
            "invalid_image_url",
        ),
        ({"messages": image("file:///etc/passwd")}, "messages[0].content[0].image_url.url", "invalid_image_url"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].file",
            "invalid_value",
        ),
        (
            {"messages": extra({"google": {"thought_signature": "%%%"}})},
            "messages[0].tool_calls[1].extra_content.google.thought_signature",
            "invalid_base64",
        ),
        (
            {"messages": extra({"google": {}})},
            "messages[0].tool_calls[1].extra_content.google.thought_signature",
            "missing_required_parameter",
        ),
        (
            {"messages": extra({"vertex": {}})},
            "messages[0].tool_calls[1].extra_content.google",
            "missing_required_parameter",
        ),
        ({"messages": called({**FUNCTION_CALL, "id": 5})}, "messages[0].tool_calls[0].id", "invalid_type"),
        ({"messages": called({**FUNCTION_CALL, "foo": 5})}, "messages[0].tool_calls[0].foo", "unknown_parameter"),
        (
            {"messages": called({"type": "function", "function": {"name": "f", "arguments": "{}"}})},
            "messages[0].tool_calls[0].id",
            "missing_required_parameter",
        ),
        (
            {"messages": called({**FUNCTION_CALL, "function": {"name": "f"}})},
            "messages[0].tool_calls[0].function.arguments",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "foo": 5}]}]},
            "messages[0].content[0].foo",
            "unknown_parameter",
        ),
        ({"prediction": {"type": "content", "content": 5}}, "prediction.content", "invalid_type"),
        (
            {"prediction": {"type": "content", "content": [{"type": "text"}]}},
            "prediction.content[0].text",
            "missing_required_parameter",
        ),
        ({"tools": [{**function_tool(), "foo": 1}]}, "tools[0].foo", "unknown_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -1}, "temperature", "integer_below_min_value"),
        ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
        ({"frequency_penalty": 3}, "frequency_penalty", "integer_above_max_value"),
        ({"presence_penalty": -2.5}, "presence_penalty", "decimal_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"stop": ""}, "stop", "string_below_min_length"),
        ({"stop": 7}, "stop", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_key"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "integer_above_max_value"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"foo": True}}, "stream_options.foo", "unknown_parameter"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        ({"tools": [function_tool(name="a b")]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [function_tool(parameters="x")]}, "tools[0].function.parameters", "invalid_type"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [function_tool()], "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tools": [function_tool()], "tool_choice": 5}, "tool_choice", "invalid_type"),
        (
            {"tools": [function_tool()], "tool_choice": {"type": "function"}},
            "tool_choice.function",
            "missing_required_parameter",
        ),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
        ({"functions": [{"name": "f"}], "tools": [function_tool()]}, "functions", "invalid_value"),
        ({"function_call": "auto"}, "function_call", "invalid_value"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"modalities": ["audio"]}, "audio", "missing_required_parameter"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "invalid_value"),
        ({"top_k": -2}, "top_k", "integer_below_min_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "integer_below_min_value"),
    ],
)
def test_refusals_name_the_parameter(members: dict[str, Any], param: str, code: str) -> None:
    error = refusal_of(**members)
    assert (error.param, error.code) == (param, code)
    assert len(error.message) < 1000


def test_missing_messages() -> None:
    with pytest.raises(EdgeError) as caught:
        check_request({"model": "x"})
    assert (caught.value.param, caught.value.code) == ("messages", "missing_required_parameter")


def test_messages_read_well() -> None:
    assert refusal_of(foo=1).message == "Unrecognized request argument supplied: foo"
    assert refusal_of(n=200).message == "Invalid 'n': expected a value <= 128, but got 200 instead."
    assert refusal_of(n=1_000_000).message == "Invalid 'n': expected a value <= 128, but got 1000000 instead."
    wrong = refusal_of(messages=[{"role": "user", "content": 5}])
    assert wrong.message == (
        "Invalid type for 'messages[0].content': expected a string or an array, but got an integer instead."
    )
