from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from dragoman.v1.run_pb2 import RunSpec
from dragoman_edge.dialects.gemini.answer import AnswerOptions, options_of
from dragoman_edge.dialects.gemini.request import check_request
from dragoman_edge.dialects.gemini.to_proto import fill_spec
from dragoman_edge.errors import EdgeError

DATA = base64.b64encode(b"bytes").decode()


def spec_of(contents: Any = "hi", **members: Any) -> Any:
    if isinstance(contents, str):
        contents = [{"role": "user", "parts": [{"text": contents}]}]
    spec = RunSpec()
    fill_spec(spec, check_request({"contents": contents, **members}), "m")
    return MessageToDict(spec, preserving_proto_field_name=True)


def chat_of(contents: Any = "hi", **members: Any) -> Any:
    return spec_of(contents, **members)["chat"]


def configured(**config: Any) -> Any:
    chat = chat_of(generationConfig=config)
    return {name: value for name, value in chat.items() if name not in ("model", "messages")}


def parts_of(*parts: Any, role: str = "user", **members: Any) -> Any:
    return [
        part
        for message in chat_of([{"role": role, "parts": list(parts)}], **members)["messages"]
        for part in message["parts"]
    ]


def refused(contents: Any = "hi", **members: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        spec_of(contents, **members)
    assert caught.value.param
    assert caught.value.param in caught.value.message or caught.value.param.startswith("contents")
    return caught.value


def test_the_smallest_request() -> None:
    assert spec_of() == {
        "chat": {"model": "m", "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "hi"}}]}]}
    }


@pytest.mark.parametrize(
    "instruction", [{"parts": [{"text": "be kind"}]}, {"role": "system", "parts": {"text": "be kind"}}]
)
def test_system_instruction(instruction: Any) -> None:
    messages = chat_of(systemInstruction=instruction)["messages"]
    assert messages[0] == {"role": "ROLE_SYSTEM", "parts": [{"text": {"text": "be kind"}}]}
    assert messages[1]["role"] == "ROLE_USER"


def test_a_system_instruction_may_be_a_text() -> None:
    assert chat_of(system_instruction="be kind") == chat_of(systemInstruction={"parts": [{"text": "be kind"}]})


def test_sampling() -> None:
    found = configured(
        temperature=0.5,
        topP=0.9,
        topK=40,
        candidateCount=2,
        maxOutputTokens=7,
        stopSequences=["a", "b"],
        seed=-5,
        presencePenalty=0.25,
        frequencyPenalty=-0.25,
        responseLogprobs=True,
        logprobs=3,
    )
    assert found == {
        "sampling": {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "choice_count": 2,
            "max_output_tokens": 7,
            "stop": ["a", "b"],
            "seed": "-5",
            "presence_penalty": 0.25,
            "frequency_penalty": -0.25,
            "logprobs": True,
            "top_logprobs": 3,
        }
    }


def test_logprobs_alone() -> None:
    assert refused(generationConfig={"logprobs": 3}).param == "generation_config.logprobs"


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        ({"includeThoughts": False}, {}),
        ({"includeThoughts": True, "thinkingBudget": 100}, {"include_reasoning": True, "reasoning_budget_tokens": 100}),
        ({"thinkingBudget": 0}, {"reasoning_budget_tokens": 0}),
        ({"thinkingBudget": -1}, {}),
        ({"thinkingLevel": "low"}, {"reasoning_effort": "REASONING_EFFORT_LOW"}),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, {}),
    ],
)
def test_thinking(config: Any, spec: Any) -> None:
    assert configured(thinkingConfig=config) == spec


def test_a_negative_budget() -> None:
    error = refused(generationConfig={"thinkingConfig": {"thinkingBudget": -2}})
    assert error.param == "generation_config.thinking_config.thinking_budget"


SCHEMA = {"type": "OBJECT", "properties": {"b": {"type": "STRING"}, "a": {"type": "INTEGER"}}}
JSON_SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "config",
    [
        {"responseMimeType": "application/json", "responseSchema": SCHEMA},
        {"responseMimeType": "application/json", "responseJsonSchema": JSON_SCHEMA},
        {"responseFormat": {"text": {"mimeType": "application/json", "schema": JSON_SCHEMA}}},
        {"responseFormat": [{"text": {"mimeType": "APPLICATION_JSON", "schema": JSON_SCHEMA}}]},
    ],
)
def test_json_schema(config: Any) -> None:
    form = configured(**config)["response_format"]["json_schema"]
    assert json.loads(form.pop("schema_json")) == JSON_SCHEMA
    assert form == {"name": "response", "strict": True}


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({"responseMimeType": "application/json"}, {"json_object": {}}),
        ({"responseMimeType": "text/plain"}, {"text": {}}),
        (
            {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ['a"b', "c\\d"]}},
            {"grammar": {"syntax": "GRAMMAR_SYNTAX_GBNF", "definition": 'root ::= "a\\"b" | "c\\\\d"'}},
        ),
    ],
)
def test_other_forms(config: Any, form: Any) -> None:
    assert configured(**config) == {"response_format": form}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"responseMimeType": "text/html"}, "response_mime_type"),
        ({"responseSchema": SCHEMA}, "response_schema"),
        ({"responseMimeType": "text/plain", "responseJsonSchema": {}}, "response_json_schema"),
        ({"responseMimeType": "text/x.enum"}, "response_schema"),
        ({"responseMimeType": "text/x.enum", "responseJsonSchema": {"enum": ["a\n"]}}, "response_json_schema"),
        (
            {"responseMimeType": "application/json", "responseSchema": {}, "responseJsonSchema": {}},
            "response_json_schema",
        ),
    ],
)
def test_forms_that_make_no_sense(config: Any, field: str) -> None:
    assert refused(generationConfig=config).param == f"generation_config.{field}"


def test_speech() -> None:
    voice = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}
    assert configured(responseModalities=["AUDIO"], speechConfig=voice) == {
        "modalities": ["MODALITY_AUDIO"],
        "audio": {"voice": "Kore", "format": "pcm16"},
    }
    assert refused(generationConfig={"speechConfig": {}}).param.startswith("generation_config.speech_config")  # type: ignore[union-attr]


def test_media() -> None:
    image = {"inlineData": {"mimeType": "IMAGE/png", "data": DATA}}
    sharp = image | {"mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}
    found = parts_of(
        image,
        sharp,
        {"inline_data": {"mime_type": "audio/mpeg", "data": DATA}},
        {"inlineData": {"mimeType": "application/pdf", "data": DATA, "displayName": "a.pdf"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.org/a.jpg"}},
        {"file_data": {"file_uri": "gs://bucket/a.mp4", "mime_type": "video/mp4"}},
        generationConfig={"mediaResolution": "MEDIA_RESOLUTION_LOW"},
    )
    assert found == [
        {"image": {"data": DATA, "media_type": "image/png", "detail": "IMAGE_DETAIL_LOW"}},
        {"image": {"data": DATA, "media_type": "image/png", "detail": "IMAGE_DETAIL_ORIGINAL"}},
        {"audio": {"data": DATA, "format": "mp3"}},
        {"file": {"data": DATA, "media_type": "application/pdf", "filename": "a.pdf"}},
        {"image": {"url": "https://example.org/a.jpg", "media_type": "image/jpeg", "detail": "IMAGE_DETAIL_LOW"}},
        {"file": {"url": "gs://bucket/a.mp4", "media_type": "video/mp4"}},
    ]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({}, ""),
        ({"thoughtSignature": ""}, ""),
        ({"text": "a", "inlineData": {"mimeType": "image/png", "data": DATA}}, ""),
        ({"inlineData": {"data": DATA}}, ".inline_data.mime_type"),
        ({"inlineData": {"mimeType": "image/png", "data": ""}}, ".inline_data.data"),
        ({"fileData": {"mimeType": "image/png"}}, ".file_data.file_uri"),
        ({"fileData": {"fileUri": "file:///etc/passwd"}}, ".file_data.file_uri"),
        ({"functionCall": {"name": "f"}}, ".function_call"),
        ({"text": "a", "thought": True}, ".thought"),
        ({"text": "a", "thoughtSignature": DATA}, ".thought_signature"),
        ({"functionResponse": {"response": {}}}, ".function_response.name"),
        ({"functionResponse": {"name": "f", "response": {}}}, ".function_response"),
    ],
)
def test_parts_that_make_no_sense(part: Any, field: str) -> None:
    assert refused([{"role": "user", "parts": [part]}]).param == f"contents[0].parts[0]{field}"


@pytest.mark.parametrize(
    ("contents", "field"),
    [
        ([], "contents"),
        ([{"role": "user"}], "contents[0].parts"),
        ([{"role": "user", "parts": []}], "contents[0].parts"),
        ([{"role": "system", "parts": [{"text": "a"}]}], "contents[0].role"),
        ([{"role": "model", "parts": [{"functionResponse": {"name": "f"}}]}], "contents[0].parts[0]"),
        ([{"role": "model", "parts": [{"functionCall": {"args": {}}}]}], "contents[0].parts[0].function_call.name"),
        ([{"role": "model", "parts": [{"thoughtSignature": ""}]}], "contents[0].parts[0]"),
    ],
)
def test_contents_that_make_no_sense(contents: Any, field: str) -> None:
    assert refused(contents).param == field


def test_what_the_model_said() -> None:
    found = parts_of(
        {"text": "hm", "thought": True, "thoughtSignature": DATA},
        {"text": "", "thought": True, "thoughtSignature": DATA},
        {"text": "yes", "thoughtSignature": DATA},
        {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": DATA},
        {"thoughtSignature": DATA},
        role="model",
    )
    call = {"id": "call_0_3", "name": "f", "arguments": '{"x":1}', "kind": "TOOL_KIND_FUNCTION", "signature": DATA}
    assert found == [
        {"reasoning": {"text": "hm", "signature": DATA}},
        {"reasoning": {"signature": DATA}},
        {"text": {"text": "yes"}},
        {"reasoning": {"signature": DATA}},
        {"tool_call": call},
        {"reasoning": {"signature": DATA}},
    ]


def conversation(*turns: tuple[str, list[Any]]) -> Any:
    return chat_of([{"role": role, "parts": parts} for role, parts in turns])["messages"]


def test_results_find_their_calls() -> None:
    def call(name: str, **members: Any) -> Any:
        return {"functionCall": {"name": name} | members}

    def result(name: str, said: Any, **members: Any) -> Any:
        return {"functionResponse": {"name": name, "response": said} | members}

    messages = conversation(
        ("user", [{"text": "go"}]),
        ("model", [call("f"), call("f", id="mine"), call("g"), call("f")]),
        ("function", [result("g", {"error": "no"}), result("f", {}, id="mine"), result("f", {"x": 1})]),
        ("user", [result("f", {"x": 2}), {"text": "go on"}]),
    )
    assert [message["role"] for message in messages[2:]] == [*["ROLE_TOOL"] * 4, "ROLE_USER"]
    results = [message["parts"][0]["tool_result"] for message in messages[2:6]]
    assert [one["call_id"] for one in results] == ["call_1_2", "mine", "call_1_0", "call_1_3"]
    assert [one["parts"][0]["text"]["text"] for one in results] == ['{"error":"no"}', "{}", '{"x":1}', '{"x":2}']
    assert [one.get("is_error", False) for one in results] == [True, False, False, False]


def test_a_result_is_given_once() -> None:
    answer = {"functionResponse": {"name": "f", "response": {}}}
    contents = [
        {"role": "model", "parts": [{"functionCall": {"name": "f"}}]},
        {"role": "user", "parts": [answer, answer]},
    ]
    assert refused(contents).param == "contents[1].parts[1].function_response"


def test_results_with_media() -> None:
    blob = {"inlineData": {"mimeType": "image/png", "data": DATA}}
    answer = {"functionResponse": {"name": "f", "response": {"a": 1}, "parts": [blob]}}
    messages = conversation(("model", [{"functionCall": {"name": "f"}}]), ("user", [answer]))
    image = {"image": {"data": DATA, "media_type": "image/png"}}
    assert messages[1]["parts"][0]["tool_result"]["parts"] == [{"text": {"text": '{"a":1}'}}, image]


DECLARED = {"functionDeclarations": [{"name": "f", "description": "d", "parameters": SCHEMA, "behavior": "BLOCKING"}]}
OTHER = {"functionDeclarations": [{"name": "g", "parametersJsonSchema": JSON_SCHEMA}, {"name": "h"}]}


def test_tools() -> None:
    tools = chat_of(tools=[DECLARED, OTHER])["tools"]
    assert [tool["function"]["name"] for tool in tools] == ["f", "g", "h"]
    assert [json.loads(tool["function"].get("parameters_json", "null")) for tool in tools] == [
        JSON_SCHEMA,
        JSON_SCHEMA,
        None,
    ]
    assert refused(tools=[{"functionDeclarations": [{}]}]).param == "tools[0].function_declarations[0].name"
    both = {"name": "f", "parameters": SCHEMA, "parametersJsonSchema": {}}
    assert refused(tools=[{"functionDeclarations": [both]}]).param == "tools[0].function_declarations[0]"


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"mode": "AUTO"}, {"mode": "TOOL_MODE_AUTO"}),
        ({"mode": "ANY"}, {"mode": "TOOL_MODE_REQUIRED"}),
        ({"mode": "NONE"}, {"mode": "TOOL_MODE_NONE"}),
        (
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
            {"allowed": {"mode": "TOOL_MODE_REQUIRED", "tools": [{"name": "f"}]}},
        ),
        ({}, None),
    ],
)
def test_tool_config(config: Any, choice: Any) -> None:
    chat = chat_of(tools=[DECLARED], toolConfig={"functionCallingConfig": config})
    assert chat.get("tool_choice") == choice


def test_validated_calls_follow_their_schema() -> None:
    chat = chat_of(tools=[DECLARED], tool_config={"function_calling_config": {"mode": "VALIDATED"}})
    assert chat["tool_choice"] == {"mode": "TOOL_MODE_AUTO"}
    assert chat["tools"][0]["function"]["strict"] is True


def test_safety() -> None:
    harassment = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_HIGH_AND_ABOVE"}
    hate = {"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "OFF"}
    assert chat_of(safetySettings=[harassment, hate])["safety_settings"] == [
        {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"},
        hate,
    ]
    assert refused(safetySettings=[hate, hate]).param == "safety_settings"
    assert refused(safetySettings=[{"category": "HARM_CATEGORY_HATE_SPEECH"}]).param == "safety_settings.threshold"


def test_the_rest() -> None:
    spec = spec_of(labels={"team": "a"}, serviceTier="flex", store=False, model="models/m")
    assert spec["labels"] == {"team": "a"}
    assert spec["chat"]["service_tier"] == "flex"
    assert spec["chat"]["store"] is False
    assert refused(model="models/other").param == "model"


def test_options() -> None:
    config = {"thinkingConfig": {"includeThoughts": True}, "responseLogprobs": True}
    assert options_of({"generationConfig": config}) == AnswerOptions(thoughts=True, logprobs=True)
    assert options_of({}, array=True) == AnswerOptions(array=True)
