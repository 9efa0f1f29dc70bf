from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format

from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman_server.errors import Dispensable, InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.gemini.dialect import DIALECT
from dragoman_server.providers.gemini.request import FIELDS
from dragoman_server.providers.vendors import Quirks

MARK = b"~google~"

NEW, OLD, PRO = "gemini-3.5-flash", "gemini-2.5-flash", "gemini-2.5-pro"


def spec_of(**fields: Any) -> ChatSpec:
    """Returns a spec of its JSON form."""
    spec = json_format.ParseDict(fields, ChatSpec())
    if not spec.messages:
        spec.messages.add(role="ROLE_USER").parts.add().text.text = "Hi"
    return spec


def path_of(model: str, *, incremental: bool = True) -> str:
    return DIALECT.encode(GenerationRequest(spec_of(), model, incremental=incremental), Quirks(), MARK).path


def body_of(spec: ChatSpec, model: str = NEW, quirks: Quirks | None = None) -> Any:
    before = spec.SerializeToString(deterministic=True)
    call = DIALECT.encode(GenerationRequest(spec, model), quirks or Quirks(), MARK)
    assert spec.SerializeToString(deterministic=True) == before
    return json.loads(call.body)


def config_of(model: str = NEW, **fields: Any) -> Any:
    return body_of(spec_of(**fields), model).get("generationConfig", {})


def refused(spec: ChatSpec, model: str = NEW, quirks: Quirks | None = None) -> str:
    """Returns the field at fault."""
    with pytest.raises(UnsupportedFeature) as caught:
        body_of(spec, model, quirks)
    assert caught.value.message
    return caught.value.field


def contents_of(*messages: dict[str, Any], model: str = NEW) -> Any:
    return body_of(spec_of(messages=list(messages)), model)["contents"]


def said(role: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    written = [{"text": {"text": part}} if isinstance(part, str) else part for part in parts]
    return {"role": f"ROLE_{role.upper()}", "parts": written, **fields}


def called(call_id: str, name: str, arguments: str = "", **fields: Any) -> dict[str, Any]:
    return {"toolCall": {"id": call_id, "name": name, "arguments": arguments, **fields}}


def answered(call_id: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    written = [{"text": {"text": part}} if isinstance(part, str) else part for part in parts]
    return {"toolResult": {"callId": call_id, "parts": written, **fields}}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Where to


def test_the_path_names_model_and_method() -> None:
    assert path_of("gemini-3.5-flash") == "/models/gemini-3.5-flash:streamGenerateContent?alt=sse"
    assert path_of("gemini-3.5-flash", incremental=False) == "/models/gemini-3.5-flash:generateContent"
    assert path_of("tunedModels/mine-1", incremental=False) == "/tunedModels/mine-1:generateContent"
    assert path_of("models/x", incremental=False) == "/models/x:generateContent"
    assert path_of("vendor/x@1", incremental=False) == "/models/vendor/x@1:generateContent"
    assert path_of("a?b#c d\r\n:x", incremental=False) == "/models/a%3Fb%23c%20d%0D%0A%3Ax:generateContent"


@pytest.mark.parametrize("model", ["", "..", "../x", "models/../../v1/x", "a//b", "a/", "models/."])
def test_a_model_cannot_lead_elsewhere(model: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        path_of(model)
    assert caught.value.field == "model"


# The conversation


def test_a_conversation() -> None:
    body = body_of(
        spec_of(
            messages=[
                said("system", "Be kind."),
                said("developer", "Be brief."),
                said("user", "Hi"),
                said("user", "there", "!"),
                said("assistant", "Hello"),
                said("user", "Bye"),
            ]
        )
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be kind."}, {"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}, {"text": "there"}, {"text": "!"}]},
            {"role": "model", "parts": [{"text": "Hello"}]},
            {"role": "user", "parts": [{"text": "Bye"}]},
        ],
    }


def test_names_stand_before_the_text() -> None:
    """The API has no place for them, and the model can tell the speakers apart."""
    thought = {"reasoning": {"text": "hm"}}
    body = body_of(
        spec_of(
            messages=[
                said("system", "Be kind.", name="Boss"),
                said("user", {"image": {"url": "x"}}, "Hi", "there", name="Ann"),
                said("user", "Me too", name="Bob"),
                said("assistant", thought, "Hello", name="Cid"),
                said("assistant", called("c1", "f"), name="Cid"),
                said("tool", answered("c1", "1")),
            ]
        )
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Boss: Be kind."}]}
    user, model, _ = body["contents"]
    assert [part.get("text") for part in user["parts"]] == [None, "Ann: Hi", "there", "Bob: Me too"]
    assert [part.get("text") for part in model["parts"]] == ["hm", "Cid: Hello", None]


def test_media() -> None:
    [content] = contents_of(
        said(
            "user",
            {"image": {"data": b64(b"png"), "mediaType": "image/png"}},
            {"image": {"url": "https://example.org/a.jpg", "detail": "IMAGE_DETAIL_AUTO"}},
            {"image": {"data": b64(b"x"), "mediaType": "image/png", "detail": "IMAGE_DETAIL_HIGH"}},
            {"audio": {"data": b64(b"riff"), "format": "wav"}},
            {"file": {"data": b64(b"%PDF"), "mediaType": "application/pdf", "filename": "a.bin"}},
            {"file": {"data": b64(b"%PDF"), "filename": "a.pdf"}},
            {"file": {"data": b64(b"film"), "mediaType": "video/mp4"}},
            {"file": {"url": "https://example.org/a.mp4"}},
            {"file": {"fileId": "https://example.org/v1beta/files/abc", "mediaType": "text/plain"}},
        )
    )
    assert content["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": b64(b"png")}},
        {"fileData": {"fileUri": "https://example.org/a.jpg"}},
        {
            "inlineData": {"mimeType": "image/png", "data": b64(b"x")},
            "mediaResolution": {"level": "MEDIA_RESOLUTION_HIGH"},
        },
        {"inlineData": {"mimeType": "audio/wav", "data": b64(b"riff")}},
        {"inlineData": {"mimeType": "application/pdf", "data": b64(b"%PDF")}},
        {"inlineData": {"mimeType": "application/pdf", "data": b64(b"%PDF")}},
        {"inlineData": {"mimeType": "video/mp4", "data": b64(b"film")}},
        {"fileData": {"fileUri": "https://example.org/a.mp4"}},
        {"fileData": {"fileUri": "https://example.org/v1beta/files/abc", "mimeType": "text/plain"}},
    ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (said("user", {"text": {"text": "a"}, "cacheBreakpoint": {}}), "messages[0].parts[0].cache_breakpoint"),
        (said("system", {"image": {"url": "x"}}), "messages[0].parts[0]"),
        (said("user", {"image": {"url": "x", "detail": "IMAGE_DETAIL_ORIGINAL"}}), "messages[0].parts[0].image.detail"),
        (said("assistant", {"audio": {"audioId": "x"}}), "messages[0].parts[0]"),
        (said("user", {"audio": {"audioId": "x"}}), "messages[0].parts[0].audio.audio_id"),
        (said("assistant", called("a", "b", kind="TOOL_KIND_CUSTOM")), "messages[0].parts[0].tool_call"),
        (said("user", called("a", "b")), "messages[0].parts[0]"),
    ],
)
def test_what_a_message_cannot_have(message: dict[str, Any], field: str) -> None:
    assert refused(spec_of(messages=[message])) == field


def test_older_models_do_not_look_closer() -> None:
    spec = spec_of(messages=[said("user", {"image": {"url": "x", "detail": "IMAGE_DETAIL_LOW"}})])
    assert refused(spec, OLD) == "messages[0].parts[0].image.detail"


def test_a_file_needs_a_type() -> None:
    with pytest.raises(InvalidRequest) as caught:
        contents_of(said("user", {"file": {"data": "eA=="}}))
    assert caught.value.field == "messages[0].parts[0].file.media_type"


def test_calls_and_their_results() -> None:
    contents = contents_of(
        said("user", "Weather?"),
        said(
            "assistant",
            {"reasoning": {"text": "I must look."}},
            called("c1", "weather", '{"city": "Øslo", "n": 1.50}', signature=b64(b"proof")),
            called("c2", "weather"),
            called("c3", "time", "{}"),
        ),
        said("tool", answered("c1", '{"degrees": 3}'), answered("c2", "cold", isError=True)),
        said("tool", answered("c3", "[1]")),
        said("user", "And?"),
    )
    assert contents[1]["parts"] == [
        {"text": "I must look.", "thought": True},
        {
            "functionCall": {"id": "c1", "name": "weather", "args": {"city": "Øslo", "n": 1.5}},
            "thoughtSignature": b64(b"proof"),
        },
        {"functionCall": {"id": "c2", "name": "weather", "args": {}}},
        {"functionCall": {"id": "c3", "name": "time", "args": {}}},
    ]
    assert contents[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "c1", "name": "weather", "response": {"degrees": 3}}},
            {"functionResponse": {"id": "c2", "name": "weather", "response": {"error": "cold"}}},
            {"functionResponse": {"id": "c3", "name": "time", "response": {"output": [1]}}},
        ],
    }
    assert contents[3] == {"role": "user", "parts": [{"text": "And?"}]}


@pytest.mark.parametrize(
    ("parts", "is_error", "response"),
    [
        ([], False, {"output": ""}),
        ([""], False, {"output": ""}),
        (["42"], False, {"output": "42"}),
        (["{not json"], False, {"output": "{not json"}),
        (["a", "b"], False, {"output": ["a", "b"]}),
        (['{"a": 1}'], True, {"error": {"a": 1}}),
        ([' {"a": 12345678901234567890}'], False, {"a": 12345678901234567890}),
    ],
)
def test_results_become_objects(parts: list[str], is_error: bool, response: Any) -> None:
    contents = contents_of(said("assistant", called("c", "f")), said("tool", answered("c", *parts, isError=is_error)))
    assert contents[1]["parts"][0]["functionResponse"]["response"] == response


def test_a_result_with_an_image() -> None:
    image = {"image": {"data": b64(b"png"), "mediaType": "image/png"}}
    contents = contents_of(said("assistant", called("c", "shoot")), said("tool", answered("c", "done", image)))
    assert contents[1]["parts"][0]["functionResponse"] == {
        "id": "c",
        "name": "shoot",
        "response": {"output": "done"},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": b64(b"png")}}],
    }


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([said("tool", answered("c", "x"))], "messages[0].parts[0].tool_result.call_id"),
        ([said("assistant", called("c", "f", "{"))], "messages[0].parts[0].tool_call.arguments"),
        ([said("assistant", called("c", "f", "[]"))], "messages[0].parts[0].tool_call.arguments"),
        ([{"parts": []}], "messages[0].role"),
    ],
)
def test_conversations_that_make_no_sense(messages: list[Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        contents_of(*messages)
    assert caught.value.field == field


def test_signatures() -> None:
    """They go back where they came from; a call of another model gets the API's stand-in, where one is asked for."""
    signed = said("assistant", "Hello", {"reasoning": {"signature": b64(b"end")}})
    assert contents_of(signed)[0]["parts"] == [{"text": "Hello"}, {"text": "", "thoughtSignature": b64(b"end")}]
    thought = said("assistant", {"reasoning": {"text": "Hm", "signature": b64(b"s")}}, {"reasoning": {}})
    assert contents_of(thought)[0]["parts"] == [{"text": "Hm", "thought": True, "thoughtSignature": b64(b"s")}]
    marked = said("assistant", {"reasoning": {"text": "Hm", "signature": b64(MARK + b"\xff~")}})
    assert contents_of(marked)[0]["parts"] == [{"text": "Hm", "thought": True, "thoughtSignature": b64(b"\xff~")}]
    unsigned = said("assistant", "So:", called("a", "f"), called("b", "f"))
    parts = contents_of(unsigned)[0]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "skip_thought_signature_validator", None]
    assert not any("thoughtSignature" in part for part in contents_of(unsigned, model=OLD)[0]["parts"])


def test_what_another_provider_signed_or_hid_is_left_out() -> None:
    theirs = b64(b"~anthropic~EqoB")
    hidden = {"reasoning": {"redacted": True, "signature": theirs}}
    thought = {"reasoning": {"text": "Hm", "signature": theirs}}
    turns = contents_of(
        said("user", "a"),
        said("assistant", hidden),
        said("assistant", thought, hidden, called("a", "f", signature=theirs)),
    )
    assert turns[1]["parts"] == [
        {"text": "Hm", "thought": True},
        {"functionCall": {"id": "a", "name": "f", "args": {}}, "thoughtSignature": "skip_thought_signature_validator"},
    ]
    assert len(turns) == 2


def test_a_refusal_is_what_the_model_said() -> None:
    assert contents_of(said("assistant", {"refusal": {"text": "No."}}))[0]["parts"] == [{"text": "No."}]


# Sampling and form


def test_sampling() -> None:
    spec = spec_of()
    spec.sampling.MergeFrom(
        Sampling(
            temperature=0.5,
            top_p=0.25,
            top_k=40,
            frequency_penalty=-1,
            presence_penalty=1,
            seed=7,
            stop=["a", "b"],
            max_output_tokens=9,
            logprobs=True,
            top_logprobs=3,
            choice_count=4,
        )
    )
    assert body_of(spec)["generationConfig"] == {
        "temperature": 0.5,
        "topP": 0.25,
        "topK": 40,
        "frequencyPenalty": -1,
        "presencePenalty": 1,
        "seed": 7,
        "stopSequences": ["a", "b"],
        "maxOutputTokens": 9,
        "responseLogprobs": True,
        "logprobs": 3,
    }
    zero = spec_of()
    zero.sampling.MergeFrom(Sampling(temperature=0, logprobs=True, top_logprobs=0, seed=0))
    assert body_of(zero)["generationConfig"] == {"temperature": 0, "responseLogprobs": True, "seed": 0}


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(min_p=0.1), "sampling.min_p"),
        (Sampling(repetition_penalty=1.1), "sampling.repetition_penalty"),
        (Sampling(logit_bias={1: 2}), "sampling.logit_bias"),
        (Sampling(top_k=0), "sampling.top_k"),
        (Sampling(seed=2**31), "sampling.seed"),
        (Sampling(stop=list("abcdef")), "sampling.stop"),
    ],
)
def test_sampling_without_a_word(sampling: Sampling, field: str) -> None:
    spec = spec_of()
    spec.sampling.MergeFrom(sampling)
    assert refused(spec) == field
    spec.ClearField("sampling")
    body_of(spec)


def test_what_a_server_does_not_know() -> None:
    spec = spec_of()
    spec.sampling.seed = 1
    assert refused(spec, quirks=Quirks(unsupported=frozenset({"sampling.seed"}))) == "sampling.seed"
    assert refused(spec_of(store=True), quirks=Quirks(unsupported=frozenset({"store"}))) == "store"


SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}


def test_forms_of_the_answer() -> None:
    assert config_of(responseFormat={"text": {}}) == {}
    json_type = {"responseMimeType": "application/json"}
    assert config_of(responseFormat={"jsonObject": {}}) == json_type
    assert config_of(responseFormat={"jsonSchema": {"name": "x"}}) == json_type

    def schema_of(**fields: Any) -> Any:
        form = {"jsonSchema": {"name": "x", "schemaJson": json.dumps(SCHEMA), **fields}}
        return config_of(responseFormat=form)

    assert schema_of() == {**json_type, "responseJsonSchema": SCHEMA}
    assert schema_of(description="why")["responseJsonSchema"] == {"description": "why", **SCHEMA}
    strict = spec_of(responseFormat={"jsonSchema": {"name": "x", "schemaJson": json.dumps(SCHEMA), "strict": True}})
    assert refused(strict) == "response_format.json_schema.strict"
    told_twice = {"name": "x", "description": "a", "schemaJson": '{"description": "b"}'}
    assert refused(spec_of(responseFormat={"jsonSchema": told_twice})) == "response_format.json_schema.description"
    grammar = {"grammar": {"syntax": "GRAMMAR_SYNTAX_LARK", "definition": "x"}}
    assert refused(spec_of(responseFormat=grammar)) == "response_format.grammar"


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_schema_that_is_none(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        config_of(responseFormat={"jsonSchema": {"name": "x", "schemaJson": text}})
    assert caught.value.field == "response_format.json_schema.schema_json"


# Thinking


def thinking(model: str, **fields: Any) -> Any:
    return config_of(model, **fields).get("thinkingConfig")


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (NEW, "MINIMAL", {"thinkingLevel": "MINIMAL"}),
        (NEW, "LOW", {"thinkingLevel": "LOW"}),
        (NEW, "MEDIUM", {"thinkingLevel": "MEDIUM"}),
        (NEW, "HIGH", {"thinkingLevel": "HIGH"}),
        (NEW, "XHIGH", {"thinkingLevel": "HIGH"}),
        (NEW, "MAX", {"thinkingLevel": "HIGH"}),
        (NEW, "NONE", None),
        ("gemini-3.1-flash-lite", "MINIMAL", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", "MINIMAL", {"thinkingLevel": "LOW"}),
        ("gemini-3.8-flash", "MINIMAL", {"thinkingLevel": "LOW"}),
        ("gemini-4-argon", "MINIMAL", {"thinkingLevel": "LOW"}),
        ("gemini-flash-latest", "LOW", {"thinkingLevel": "LOW"}),
        (OLD, "NONE", {"thinkingBudget": 0}),
        (OLD, "MEDIUM", {"thinkingBudget": 8192}),
        ("models/gemini-2.5-flash-lite", "MAX", {"thinkingBudget": 24576}),
        (PRO, "LOW", {"thinkingBudget": 1024}),
        (PRO, "MAX", {"thinkingBudget": 32768}),
        (PRO, "NONE", None),
        ("gemini-2.0-flash", "HIGH", None),
    ],
)
def test_effort(model: str, effort: str, expected: dict[str, Any] | None) -> None:
    fields = {"reasoningEffort": f"REASONING_EFFORT_{effort}"}
    if expected is None:
        assert refused(spec_of(**fields), model) == "reasoning_effort"
    else:
        assert thinking(model, **fields) == expected


def test_budget_and_thoughts() -> None:
    assert thinking(NEW) is None
    assert thinking(NEW, reasoningBudgetTokens=512, reasoningEffort="REASONING_EFFORT_HIGH") == {"thinkingBudget": 512}
    assert thinking(OLD, reasoningBudgetTokens=0, includeReasoning=False) == {
        "thinkingBudget": 0,
        "includeThoughts": False,
    }
    assert thinking(NEW, includeReasoning=True) == {"includeThoughts": True}
    dull = "gemini-2.0-flash"
    quiet = {"includeReasoning": False, "reasoningEffort": "REASONING_EFFORT_NONE"}
    assert thinking(dull, **quiet) is None
    assert thinking(dull, reasoningBudgetTokens=0) is None
    assert refused(spec_of(reasoningBudgetTokens=5), dull) == "reasoning_budget_tokens"
    with pytest.raises(Dispensable, match="does not think"):
        body_of(spec_of(reasoningEffort="REASONING_EFFORT_MINIMAL"), dull)
    assert refused(spec_of(includeReasoning=True), dull) == "include_reasoning"


# Tools


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"function": {"name": name, **fields}}


def test_tools() -> None:
    parameters = {"type": "object", "properties": {"a": {"const": "x"}}}
    body = body_of(
        spec_of(tools=[function("f", description="does", parametersJson=json.dumps(parameters)), function("g")])
    )
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "does", "parametersJsonSchema": parameters},
                {"name": "g"},
            ]
        }
    ]
    assert "toolConfig" not in body
    assert refused(spec_of(tools=[function(), {"custom": {"name": "c"}}])) == "tools[1]"


def test_strict_tools() -> None:
    parameters = {"type": "object", "properties": {"a": {"const": "x"}}}
    tools = [function("f", strict=True, parametersJson=json.dumps(parameters))]
    body = body_of(spec_of(tools=tools))
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    [declaration] = body["tools"][0]["functionDeclarations"]
    assert declaration["parametersJsonSchema"]["properties"] == {"a": {"enum": ["x"]}}
    pattern = [function("f", strict=True, parametersJson='{"properties": {"a": {"pattern": "x"}}}')]
    assert refused(spec_of(tools=pattern)) == "tools[0].function.strict"


@pytest.mark.parametrize(
    ("choice", "strict", "config"),
    [
        ({"mode": "TOOL_MODE_AUTO"}, False, {"mode": "AUTO"}),
        ({"mode": "TOOL_MODE_AUTO"}, True, {"mode": "VALIDATED"}),
        ({"mode": "TOOL_MODE_NONE"}, True, {"mode": "NONE"}),
        ({"mode": "TOOL_MODE_REQUIRED"}, True, {"mode": "ANY"}),
        ({"tool": {"name": "f"}}, False, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {"allowed": {"mode": "TOOL_MODE_AUTO", "tools": [{"name": "f"}, {"name": "g"}]}},
            False,
            {"mode": "VALIDATED", "allowedFunctionNames": ["f", "g"]},
        ),
        (
            {"allowed": {"mode": "TOOL_MODE_REQUIRED", "tools": [{"name": "f"}]}},
            True,
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_tool_choice(choice: Any, strict: bool, config: Any) -> None:
    body = body_of(spec_of(tools=[function("f", strict=strict), function("g")], toolChoice=choice))
    assert body["toolConfig"] == {"functionCallingConfig": config}


def test_calls_one_at_a_time() -> None:
    assert "toolConfig" not in body_of(spec_of(parallelToolCalls=True))
    assert refused(spec_of(parallelToolCalls=False)) == "parallel_tool_calls"


def test_web_search() -> None:
    body = body_of(spec_of(webSearchOptionsJson="{}", tools=[function()]))
    assert body["tools"][1] == {"googleSearch": {}}
    options = spec_of(webSearchOptionsJson='{"search_context_size": "low"}')
    assert refused(options) == "web_search_options_json"


# The rest


def test_other_fields() -> None:
    body = body_of(
        spec_of(
            model="alias",
            taskProfile="TASK_PROFILE_CODING",
            upstream={"baseUrl": "https://example.org", "dialect": "gemini"},
            serviceTier="flex",
            metadata={"team": "blue"},
            store=False,
            modalities=["MODALITY_AUDIO"],
            audio={"voice": "Kore", "format": "pcm16"},
            safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        )
    )
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "serviceTier": "flex",
        "labels": {"team": "blue"},
        "store": False,
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
        },
    }
    assert "serviceTier" not in body_of(spec_of(serviceTier="auto"))
    assert body_of(spec_of(serviceTier="default"))["serviceTier"] == "standard"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"verbosity": "VERBOSITY_LOW"}, "verbosity"),
        ({"user": "u"}, "user"),
        ({"safetyIdentifier": "u"}, "safety_identifier"),
        ({"promptCacheKey": "k"}, "prompt_cache_key"),
        ({"promptCacheRetention": "24h"}, "prompt_cache_retention"),
        ({"prediction": {"parts": []}}, "prediction"),
        ({"chatTemplateKwargsJson": "{}"}, "chat_template_kwargs_json"),
        ({"moderationJson": "{}"}, "moderation_json"),
        ({"promptCacheOptionsJson": "{}"}, "prompt_cache_options_json"),
        ({"serviceTier": "scale"}, "service_tier"),
        ({"modalities": ["MODALITY_IMAGE"]}, "modalities"),
        ({"audio": {"voice": "v", "format": "wav"}}, "audio.format"),
    ],
)
def test_fields_without_a_word(fields: dict[str, Any], field: str) -> None:
    assert refused(spec_of(**fields)) == field


def test_every_field_of_the_contract_is_written_or_refused() -> None:
    known = {field.name for field in ChatSpec.DESCRIPTOR.fields}
    assert set(FIELDS) <= known
    assert known - set(FIELDS) == {
        *("verbosity", "prediction", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("chat_template_kwargs_json", "moderation_json", "prompt_cache_options_json"),
    }
