from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.errors import InvalidRequest
from dragoman_server.paging import decode_token, encode_token, page_size


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(st.text(min_size=1, max_size=64), st.integers(-(2**63) + 1, 2**63 - 1), st.text(max_size=32))
def test_a_token_gives_its_position_back(scope: str, number: int, text: str) -> None:
    token = encode_token(scope, number, text)
    assert token.isascii()
    assert not set(token) & set("+/=")
    if len(token) <= 1024:
        assert decode_token(scope, token, int, str) == (number, text)


def test_no_token_is_the_first_page() -> None:
    assert decode_token("scope", "", int, str) == ()


def test_a_token_is_of_use_in_its_scope_only() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_token("yours", encode_token("mine", 1), int)
    assert refused.value.field == "page_token"


@given(st.text(min_size=1, max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_token("default", text, str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("default"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_refused_or_a_position(value: object) -> None:
    with contextlib.suppress(InvalidRequest):
        number, text = decode_token("default", encoded(value), int, str)
        assert value == ["default", number, text]


def test_a_deep_long_or_huge_token_is_refused() -> None:
    for value in (["default", "0" * 2000], ["default", 2**63], ["default", True], "default"):
        with pytest.raises(InvalidRequest):
            decode_token("default", encoded(value), int)
    deep = base64.urlsafe_b64encode(b"[" * 500).decode()
    with pytest.raises(InvalidRequest):
        decode_token("default", deep, int)


@pytest.mark.parametrize(("asked", "got"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes_have_a_default_and_a_bound(asked: int, got: int) -> None:
    assert page_size(asked) == got


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_size(-1)
    assert refused.value.field == "page_size"
