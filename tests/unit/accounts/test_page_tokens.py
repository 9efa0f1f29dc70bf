from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.accounts.page_tokens import decode_page_token, encode_page_token
from dragoman_server.errors import InvalidRequest

KEY = "key_" + "0af9" * 8


@given(st.text(min_size=1, max_size=64), st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_token_gives_its_position_back(account_id: str, create_time: int) -> None:
    token = encode_page_token(account_id, (create_time, KEY))
    assert token.isascii()
    assert not set(token) & set("+/=")
    assert decode_page_token(account_id, token) == (create_time, KEY)


def test_a_token_is_of_use_in_its_account_only() -> None:
    token = encode_page_token("mine", (1, KEY))
    with pytest.raises(InvalidRequest) as refused:
        decode_page_token("yours", token)
    assert refused.value.field == "page_token"


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_page_token("default", text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("default") | st.just(KEY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_refused_or_a_position(value: object) -> None:
    token = base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    with contextlib.suppress(InvalidRequest):
        create_time, key_id = decode_page_token("default", token)
        assert value == ["default", create_time, key_id]


def test_a_deep_or_long_token_is_refused() -> None:
    for text in ("[" * 500, json.dumps(["default", 1, KEY + "0" * 2000]), json.dumps(["default", 2**63, KEY])):
        with pytest.raises(InvalidRequest):
            decode_page_token("default", base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))
