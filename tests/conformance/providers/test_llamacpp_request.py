"""What the embedded model is asked, and what it is never asked: no model is needed to see that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import RunEvent
from dragoman.v1.message_pb2 import (
    AudioPart,
    CacheBreakpoint,
    FilePart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    ToolCall,
    ToolResult,
)
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import (
    AudioOutput,
    JsonSchemaFormat,
    Modality,
    Prediction,
    ReasoningEffort,
    ResponseFormat,
    Sampling,
    Verbosity,
)
from dragoman.v1.tool_pb2 import (
    AllowedTools,
    FunctionTool,
    Grammar,
    GrammarSyntax,
    NamedTool,
    Tool,
    ToolChoice,
    ToolMode,
)
from dragoman_server.errors import (
    ContextLengthExceeded,
    DragomanError,
    InvalidRequest,
    ProviderError,
    Unavailable,
    UnsupportedFeature,
)
from dragoman_server.providers.llamacpp.chunks import ChunkReader, failure_of
from dragoman_server.providers.llamacpp.json_schema import enforceable
from dragoman_server.providers.llamacpp.request import chat_body


def text(words: str) -> Part:
    return Part(text=TextPart(text=words))


def user(*parts: Part) -> Message:
    return Message(role=Role.ROLE_USER, parts=parts)


def chat(**fields: Any) -> ChatSpec:
    return ChatSpec(**{"messages": [user(text("hi"))], **fields})


def gbnf(definition: str, syntax: GrammarSyntax = GrammarSyntax.GRAMMAR_SYNTAX_GBNF) -> ResponseFormat:
    return ResponseFormat(grammar=Grammar(syntax=syntax, definition=definition))


def test_the_conversation() -> None:
    body = chat_body(
        ChatSpec(
            messages=[
                Message(role=Role.ROLE_SYSTEM, parts=[text("be brief")]),
                Message(role=Role.ROLE_DEVELOPER, parts=[text("be kind")]),
                Message(role=Role.ROLE_USER, parts=[text("one"), text("two")], name="ann"),
                Message(
                    role=Role.ROLE_ASSISTANT,
                    parts=[Part(reasoning=ReasoningPart(text="hm")), Part(refusal=RefusalPart(text="no"))],
                ),
                Message(role=Role.ROLE_USER),
            ]
        )
    )
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "ann: one\ntwo"},
        {"role": "assistant", "content": "no", "reasoning_content": "hm"},
        {"role": "user", "content": ""},
    ]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_every_field_of_sampling_is_passed_on() -> None:
    values = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "frequency_penalty": 1.5,
        "presence_penalty": -1.5,
        "repetition_penalty": 1.25,
        "seed": -3,
        "stop": ["a", ""],
        "max_output_tokens": 9,
        "logit_bias": {5: -100.0},
        "logprobs": True,
        "top_logprobs": 4,
        "choice_count": 3,
    }
    assert set(values) == {field.name for field in Sampling.DESCRIPTOR.fields}
    plain = chat_body(chat())
    body = chat_body(chat(sampling=Sampling(**values)))  # type: ignore[arg-type]
    assert {key: value for key, value in body.items() if key not in plain} == {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "frequency_penalty": 1.5,
        "presence_penalty": -1.5,
        "repeat_penalty": 1.25,
        "seed": 0xFFFF_FFFF - 3,
        "cache_prompt": False,
        "stop": ["a"],
        "verbose": True,
        "max_tokens": 9,
        "logit_bias": {"5": -100.0},
        "logprobs": True,
        "top_logprobs": 4,
        # choice_count is the engine's: it asks for each choice by itself
    }


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_seed_means_random(seed: int) -> None:
    assert 0 <= chat_body(chat(sampling=Sampling(seed=seed)))["seed"] < 0xFFFF_FFFF


REFUSED = {
    "tools": chat(tools=[Tool(function=FunctionTool(name="f"))]),
    "tool_choice": chat(tool_choice=ToolChoice(mode=ToolMode.TOOL_MODE_REQUIRED)),
    "tool_choice of one": chat(tool_choice=ToolChoice(tool=NamedTool(name="f"))),
    "tool_choice of some": chat(tool_choice=ToolChoice(allowed=AllowedTools(mode=ToolMode.TOOL_MODE_AUTO))),
    "reasoning_effort": chat(reasoning_effort=ReasoningEffort.REASONING_EFFORT_LOW),
    "verbosity": chat(verbosity=Verbosity.VERBOSITY_LOW),
    "modalities": chat(modalities=[Modality.MODALITY_TEXT, Modality.MODALITY_AUDIO]),
    "audio": chat(audio=AudioOutput(voice="a", format="wav")),
    "prediction": chat(prediction=Prediction(parts=[text("x")])),
    "service_tier": chat(service_tier="flex"),
    "store": chat(store=True),
    "prompt_cache_retention": chat(prompt_cache_retention="24h"),
    "web_search_options_json": chat(web_search_options_json="{}"),
    "moderation_json": chat(moderation_json="{}"),
    "prompt_cache_options_json": chat(prompt_cache_options_json="{}"),
    "messages[0].role": chat(messages=[Message(role=Role.ROLE_TOOL, parts=[text("x")])]),
    "messages[1].parts[1].image": chat(messages=[user(), user(text("a"), Part(image=ImagePart(url="http://a/b")))]),
    "messages[0].parts[0].audio": chat(messages=[user(Part(audio=AudioPart(data=b"a")))]),
    "messages[0].parts[0].file": chat(messages=[user(Part(file=FilePart(data=b"a")))]),
    "messages[0].parts[0].tool_call": chat(messages=[user(Part(tool_call=ToolCall(id="a", name="b")))]),
    "messages[0].parts[0].tool_result": chat(messages=[user(Part(tool_result=ToolResult(call_id="a")))]),
    "response_format.grammar.syntax": chat(
        response_format=gbnf("start: 'a'", GrammarSyntax.GRAMMAR_SYNTAX_LARK),
    ),
    "response_format.json_schema.schema_json": chat(
        response_format=ResponseFormat(
            json_schema=JsonSchemaFormat(name="a", strict=True, schema_json='{"not": {"type": "string"}}')
        )
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_model_cannot_do_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        chat_body(REFUSED[name])
    assert caught.value.field == name.partition(" ")[0]
    assert caught.value.reason == Reason.UNSUPPORTED_FEATURE


NONSENSE = {
    "messages": ChatSpec(),
    "messages[0].role": ChatSpec(messages=[Message(parts=[text("a")])]),
    "messages[0].parts[0]": chat(messages=[user(Part())]),
    "sampling.max_output_tokens": chat(sampling=Sampling(max_output_tokens=0)),
    "response_format.grammar.definition": chat(response_format=gbnf("")),
    "response_format.grammar.definition of another syntax": chat(response_format=gbnf("%llguidance {}\nstart: 'a'")),
    "response_format.grammar.definition too deep": chat(
        response_format=gbnf("root ::= " + "(" * 99 + '"a"' + ")" * 99)
    ),
    "response_format.grammar.definition too long": chat(response_format=gbnf('root ::= "' + "a" * 99_999 + '"')),
    "chat_template_kwargs_json": chat(chat_template_kwargs_json="[]"),
    "chat_template_kwargs_json broken": chat(chat_template_kwargs_json="{"),
    "chat_template_kwargs_json too deep": chat(chat_template_kwargs_json='{"a": ' + "[" * 99 + "]" * 99 + "}"),
    "chat_template_kwargs_json far too deep": chat(chat_template_kwargs_json="[" * 99_999),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_body(NONSENSE[name])
    assert caught.value.field == name.partition(" ")[0]
    assert caught.value.reason == Reason.INVALID_REQUEST


def test_marks_for_remote_providers_change_nothing() -> None:
    marked = chat(
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="in_memory",
        metadata={"a": "b"},
        service_tier="default",
        store=False,
        parallel_tool_calls=True,
        tool_choice=ToolChoice(mode=ToolMode.TOOL_MODE_NONE),
        verbosity=Verbosity.VERBOSITY_MEDIUM,
        modalities=[Modality.MODALITY_TEXT],
    )
    marked.messages[0].parts[0].cache_breakpoint.CopyFrom(CacheBreakpoint(ttl="30m"))
    assert chat_body(marked) == chat_body(chat())


def test_template_variables() -> None:
    spec = chat(
        reasoning_effort=ReasoningEffort.REASONING_EFFORT_NONE, chat_template_kwargs_json='{"date_string": "today"}'
    )
    assert chat_body(spec)["chat_template_kwargs"] == {"enable_thinking": False, "date_string": "today"}


@pytest.mark.parametrize(
    "wish",
    [
        {"reasoning_effort": ReasoningEffort.REASONING_EFFORT_MINIMAL},
        {"reasoning_budget_tokens": 0},
        {"reasoning_budget_tokens": 0, "reasoning_effort": ReasoningEffort.REASONING_EFFORT_HIGH},
    ],
)
def test_a_wish_for_no_thoughts_reaches_the_template(wish: dict[str, Any]) -> None:
    assert chat_body(chat(**wish))["chat_template_kwargs"] == {"enable_thinking": False}


SCHEMA = {
    "type": "object",
    "properties": {
        "pattern": {"type": "string", "pattern": "^a{2}(b|c)$", "minLength": 1, "format": "uuid"},
        "not": {"type": "integer", "minimum": 1},
        "more": {"$ref": "#/$defs/if"},
    },
    "$defs": {"if": {"enum": [{"multipleOf": 3}], "default": {"not": 1}}},
    "required": ["not"],
    "additionalProperties": False,
}


def test_a_schema_that_can_be_enforced_stays_as_it_is() -> None:
    assert enforceable(json.dumps(SCHEMA), strict=True) == SCHEMA
    assert enforceable("", strict=True) == {"type": "object"}


@pytest.mark.parametrize(
    "part",
    [
        {"pattern": "abc"},
        {"pattern": "^(a?){100}$"},
        {"pattern": "^((a?){10}){10}$"},
        {"pattern": "^" + "(a?)" * 60 + "$"},
        {"type": "number", "minimum": 1},
        {"multipleOf": 2},
        {"minItems": 100_000},
        {"format": "email"},
        {"uniqueItems": True},
        {"not": {}},
    ],
)
def test_what_cannot_be_enforced_is_refused_if_strict_and_else_left_out(part: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": part}}
    with pytest.raises(UnsupportedFeature, match="#/properties/a/"):
        enforceable(json.dumps(schema), strict=True)
    kept = enforceable(json.dumps(schema), strict=False)["properties"]["a"]
    assert kept == {key: value for key, value in part.items() if key == "type"}


@pytest.mark.parametrize(
    "schema", ["[]", "true", "{", '{"a": NaN', "[" * 99_999, '{"a":' * 99 + "1" + "}" * 99, " " * 99_999 + "{}"]
)
def test_a_schema_that_is_none_is_refused(schema: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        enforceable(schema, strict=False)
    assert caught.value.field == "response_format.json_schema.schema_json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*SCHEMA, "not", "pattern", "minimum", "items", "enum", "a"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_what_is_kept_of_a_schema_is_strictly_enforceable(value: Any) -> None:
    try:
        kept = enforceable(json.dumps(value), strict=False)
    except InvalidRequest:
        assert not isinstance(value, dict)
        return
    assert enforceable(json.dumps(kept), strict=True) == kept


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (
            {"type": "exceed_context_size_error", "message": "m", "n_prompt_tokens": 9, "n_ctx": 8},
            ContextLengthExceeded,
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
        ({"type": "invalid_request_error", "message": "m"}, InvalidRequest, Reason.INVALID_REQUEST),
        ({"type": "unavailable_error", "message": "Loading model"}, Unavailable, Reason.MODEL_NOT_READY),
        ({"type": "server_error", "message": "m"}, ProviderError, Reason.PROVIDER_FAILED),
        ({}, ProviderError, Reason.PROVIDER_FAILED),
    ],
)
def test_errors_of_the_library(error: dict[str, Any], kind: type[DragomanError], reason: Reason) -> None:
    with pytest.raises(kind) as caught:
        ChunkReader(0, 0).read({"error": error or {"code": 500}})
    assert caught.value.reason == failure_of(error).reason == reason


def chunk(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **fields}]}


def test_thoughts_of_a_thinking_model_are_apart_from_its_text() -> None:
    batch = ChunkReader(2, 0).read(chunk({"reasoning_content": "hm"}))
    assert batch is not None
    [event] = batch.events
    assert (event.reasoning_delta.choice_index, event.reasoning_delta.text) == (2, "hm")


def test_chunks_without_content_are_no_events() -> None:
    reader = ChunkReader(0, 0)
    assert reader.read(chunk({"role": "assistant", "content": None})) is None
    assert reader.read({**chunk({"content": None}), "prompt_progress": {"total": 9, "processed": 1}}) is None
    assert not reader.finished


@pytest.mark.parametrize("bad", [chunk({}, finish_reason="tool_calls"), chunk({"tool_calls": [{"index": 0}]})])
def test_a_finish_that_nobody_asked_for_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        ChunkReader(0, 0).read(bad)
    assert caught.value.reason == Reason.PROVIDER_PROTOCOL


def test_an_impossible_token_has_a_finite_log_probability() -> None:
    token = {"token": "a", "bytes": [97], "logprob": None, "top_logprobs": []}
    batch = ChunkReader(0, 1).read(chunk({"content": "a"}, logprobs={"content": [token]}))
    assert batch is not None
    event: RunEvent = batch.events[0]
    assert event.text_delta.logprobs[0].logprob == -9999.0
