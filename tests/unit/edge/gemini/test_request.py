"""The rules of protobuf's JSON, and that everything is either translated or refused by name."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import RunSpec
from dragoman_edge.dialects.gemini.errors import render_error
from dragoman_edge.dialects.gemini.request import check_message, check_request
from dragoman_edge.dialects.gemini.schemas import MESSAGES, Kind, Words, snake
from dragoman_edge.dialects.gemini.to_proto import fill_spec
from dragoman_edge.errors import EdgeError

REQUEST = "GenerateContentRequest"
HELLO = {"contents": [{"parts": [{"text": "hi"}]}]}


def check(**members: Any) -> dict[str, Any]:
    return check_request(HELLO | members)


def refusal(body: dict[str, Any]) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        check_request(body)
    return caught.value


def test_names_in_either_case() -> None:
    camel = check(generationConfig={"topK": 3, "stopSequences": ["a"]}, systemInstruction={"parts": [{"text": "s"}]})
    other = check(
        generation_config={"top_k": 3, "stop_sequences": ["a"]}, system_instruction={"parts": [{"text": "s"}]}
    )
    assert camel == other


def test_a_field_under_both_names() -> None:
    error = refusal(HELLO | {"generationConfig": {"topK": 3, "top_k": 4}})
    assert error.param == "generation_config.top_k"
    assert "twice" in error.message


def test_one_value_in_place_of_a_list_of_one() -> None:
    checked = check_message({"contents": {"parts": {"text": "hi"}}}, REQUEST)
    assert checked == {"contents": [{"parts": [{"text": "hi"}]}]}


def test_null_is_absent() -> None:
    assert check(tools=None, generationConfig={"seed": None}) == HELLO | {"generationConfig": {}}


@pytest.mark.parametrize(
    ("config", "checked"),
    [
        ({"topK": 40.0}, {"topK": 40}),
        ({"topK": "40"}, {"topK": 40}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": "0.5"}, {"temperature": 0.5}),
        ({"responseModalities": ["text"]}, {"responseModalities": ["TEXT"]}),
        ({"_responseJsonSchema": {"a": 1}}, {"responseJsonSchema": {"a": 1}}),
        ({"enableEnhancedCivicAnswers": False}, {}),
    ],
)
def test_conversions(config: Any, checked: Any) -> None:
    assert check(generationConfig=config)["generationConfig"] == checked


@pytest.mark.parametrize(
    ("config", "field", "shown"),
    [
        ({"topK": 1.5}, "top_k", "TYPE_INT32"),
        ({"topK": 2**31}, "top_k", "TYPE_INT32"),
        ({"topK": True}, "top_k", "TYPE_INT32"),
        ({"topK": "x"}, "top_k", "TYPE_INT32"),
        ({"temperature": "hot"}, "temperature", 'TYPE_DOUBLE), "hot"'),
        ({"temperature": "1e999"}, "temperature", "TYPE_DOUBLE"),
        ({"responseLogprobs": "true"}, "response_logprobs", "TYPE_BOOL"),
        ({"stopSequences": ["a", 1]}, "stop_sequences[1]", "TYPE_STRING), 1"),
        ({"responseModalities": ["SMELL"]}, "response_modalities[0]", "one of"),
        ({"thinkingConfig": 3}, "thinking_config", "ThinkingConfig), 3"),
    ],
)
def test_wrong_values(config: Any, field: str, shown: str) -> None:
    error = refusal(HELLO | {"generationConfig": config})
    assert error.param == f"generation_config.{field}"
    assert error.message.startswith(f"Invalid value at 'generation_config.{field}'")
    assert shown in error.message


@pytest.mark.parametrize("data", [b"abc", b"\xff\xfe\xfa", b"a"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_base64_of_either_alphabet(data: bytes, encode: Any, padded: bool) -> None:
    text = encode(data).decode()
    blob = {"mimeType": "image/png", "data": text if padded else text.rstrip("=")}
    checked = check_message({"contents": [{"parts": [{"inlineData": blob}]}]}, REQUEST)
    assert checked["contents"][0]["parts"][0]["inlineData"]["data"] == data


@pytest.mark.parametrize("data", ["a", "%%%", "é", "ab cd", 5])
def test_broken_base64(data: Any) -> None:
    error = refusal({"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": data}}]}]})
    assert error.param == "contents[0].parts[0].inline_data.data"


def test_unknown_names() -> None:
    error = refusal(HELLO | {"generationConfig": {"heat": 1}})
    text = "Invalid JSON payload received. Unknown name \"heat\" at 'generation_config': Cannot find field."
    assert error.message == text
    assert error.param == "generation_config"
    assert refusal(HELLO | {"nonsense": None}).message.endswith('Unknown name "nonsense": Cannot find field.')


REFUSED = [(message, name) for message, fields in MESSAGES.items() for name, field in fields.items() if field.refused]


@pytest.mark.parametrize(("message", "name"), REFUSED)
def test_what_has_no_home_is_refused_by_name(message: str, name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        check_message({name: {}}, message, "here")
    assert caught.value.reason is Reason.UNSUPPORTED_FEATURE
    assert caught.value.param == f"here.{snake(name)}"
    answer = render_error(caught.value)
    assert answer.status == 400
    assert b"INVALID_ARGUMENT" in answer.body


def test_every_message_that_is_named_has_a_table() -> None:
    for fields in MESSAGES.values():
        for field in fields.values():
            assert isinstance(field.kind, Kind | Words) or field.kind in MESSAGES


names = st.sampled_from(sorted({name for fields in MESSAGES.values() for name in fields}))
words = st.sampled_from(
    ["user", "model", "function", "ANY", "STRING", "OBJECT", "application/json", "text/x.enum", "aGk="]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(names | names.map(snake) | st.text(), inner, max_size=4)
    ),
    max_leaves=25,
)


def plausible(message: str, depth: int = 4) -> st.SearchStrategy[Any]:
    """Draws values that look like a message, most of the time."""
    fields = {}
    for name, field in MESSAGES[message].items():
        if field.refused:
            continue
        nested = not isinstance(field.kind, Kind | Words)
        if nested and depth == 0:
            continue
        one = plausible(str(field.kind), depth - 1) if nested else scalars
        if isinstance(field.kind, Words):
            one = st.sampled_from(field.kind.values)
        drawn = st.lists(one, max_size=2) if field.repeated else st.dictionaries(st.text(max_size=3), one, max_size=2)
        fields[name] = drawn if field.repeated or field.keyed else one
    return st.fixed_dictionaries({}, optional=fields)


def refused_as(body: Any) -> EdgeError | None:
    """Returns what a request is refused with, or None if it is translated."""
    try:
        fill_spec(RunSpec(), check_request(body), "m")
    except EdgeError as error:
        return error
    return None


@settings(max_examples=300, deadline=None)
@given(body=st.dictionaries(names, values, max_size=5) | plausible(REQUEST))
def test_whatever_comes_is_translated_or_refused(body: Any) -> None:
    error = refused_as(body)
    assert error is None or (error.param and render_error(error).status == 400)
