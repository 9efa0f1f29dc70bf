"""Embeddings in the dialect of OpenAI: what is taken, what is refused, and how vectors are written."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
from dragoman.v1.usage_pb2 import Usage
from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.embeddings import MAX_INPUTS, read_request, render_pieces
from dragoman_edge.errors import EdgeError
from tests.support.embedding_upstream import texts, tokens

GOOD: list[tuple[Any, Any]] = [
    ("a", texts("a")),
    (["a", "b"], texts("a", "b")),
    ([1, 2, 3], tokens([1, 2, 3])),
    ([[1, 2], [3]], tokens([1, 2], [3])),
    (["a"] * MAX_INPUTS, texts(*["a"] * MAX_INPUTS)),
    ([7] * 5000, tokens([7] * 5000)),
]


@pytest.mark.parametrize(("given_", "meant"), GOOD, ids=["text", "texts", "tokens", "token_lists", "many", "long"])
def test_inputs(given_: Any, meant: Any) -> None:
    request, in_base64 = read_request({"input": given_})
    assert request == meant
    assert not in_base64


def test_everything() -> None:
    body = {"input": "a", "model": "m", "encoding_format": "base64", "dimensions": 3, "user": "u", "task_type": "T"}
    assert read_request(body) == (texts("a", model="m", dimensions=3, user="u", task_type="T"), True)


def test_null_is_absent() -> None:
    body = dict.fromkeys(("model", "encoding_format", "dimensions", "user", "task_type")) | {"input": "a"}
    assert read_request(body) == (texts("a"), False)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "input", "missing_required_parameter"),
    ({"input": None}, "input", "invalid_type"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": []}, "input", "empty_array"),
    ({"input": [""]}, "input[0]", "invalid_value"),
    ({"input": [[]]}, "input[0]", "empty_array"),
    ({"input": ["a", 1]}, "input[1]", "invalid_type"),
    ({"input": [1, "a"]}, "input", "invalid_type"),
    ({"input": [1, True]}, "input", "invalid_type"),
    ({"input": [1.5]}, "input[0]", "invalid_type"),
    ({"input": [[1], ["a"]]}, "input[1]", "invalid_type"),
    ({"input": [[1], [-1]]}, "input[1]", "invalid_value"),
    ({"input": [2**31]}, "input", "invalid_value"),
    ({"input": {"text": "a"}}, "input", "invalid_type"),
    ({"input": ["a"] * (MAX_INPUTS + 1)}, "input", "array_above_max_length"),
    ({"input": "a", "dimensions": 0}, "dimensions", "integer_below_min_value"),
    ({"input": "a", "dimensions": "3"}, "dimensions", "invalid_type"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ({"input": "a", "user": 1}, "user", "invalid_type"),
    ({"input": "a", "inputs": "b"}, "inputs", "unknown_parameter"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_is_refused(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(EdgeError) as caught:
        read_request(body)
    assert (caught.value.param, caught.value.code) == (param, code)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=12,
)


@given(values, st.dictionaries(st.sampled_from(["model", "dimensions", "encoding_format", "user"]), values))
def test_anything_is_a_request_or_refused(given_: Any, fields: dict[str, Any]) -> None:
    try:
        request, _ = read_request({"input": given_, **fields})
    except EdgeError as error:
        refused = error.param
        assert refused is not None
    else:
        assert len(request.inputs) >= 1


RESPONSE = EmbedResponse(
    model='a "model"',
    embeddings=[Embedding(values=[0.5, -0.25]), Embedding(values=[1e-7, 3.0])],
    usage=Usage(input_tokens=9),
)


@pytest.mark.parametrize("in_base64", [False, True])
def test_answers(in_base64: bool) -> None:
    answer = json.loads(b"".join(render_pieces(RESPONSE, in_base64=in_base64)))
    ANSWERS["EmbeddingList"].validate_python(answer)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["model"] == 'a "model"'
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    for item, embedding in zip(answer["data"], RESPONSE.embeddings, strict=True):
        written = item["embedding"]
        read = list(struct.unpack("<2f", base64.b64decode(written))) if in_base64 else written
        assert read == list(embedding.values)
