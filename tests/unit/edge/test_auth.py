from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_edge.auth import credential_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.body import Body
from dragoman_edge.http.request import Head, Request


def request_of(*lines: str) -> Request:
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(Head("GET", "/", 1, headers, list(lines), keep_alive=True), Body(0))


keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


@given(keys, st.sampled_from(["Authorization: Bearer {}", "x-api-key: {}", "api-key: {}", "X-Goog-Api-Key: {}"]))
def test_a_credential_is_found_in_each_header(key: str, form: str) -> None:
    assert credential_of(request_of(form.format(key))) == key
    assert credential_of(request_of(form.format(key), f"Authorization: Bearer {key}")) == key


def test_credentials_that_differ_are_refused() -> None:
    with pytest.raises(EdgeError) as refused:
        credential_of(request_of("Authorization: Bearer one", "x-api-key: two"))
    assert refused.value.reason is Reason.API_KEY_INVALID


@pytest.mark.parametrize("other", ["Bearer another", "Bearer", "Basic eDp5", "nonsense", ""])
def test_the_key_header_of_a_route_counts_alone(other: str) -> None:
    request = request_of(f"Authorization: {other}", "X-Soke-Key: sk_live_1", "x-api-key: third")
    assert credential_of(request, key_header="x-soke-key") == "sk_live_1"


def test_without_its_key_header_a_route_is_like_any_other() -> None:
    assert credential_of(request_of("Authorization: Bearer a.b.c"), key_header="x-soke-key") == "a.b.c"
    assert credential_of(request_of("X-Soke-Key: sk_live_1")) is None
    assert credential_of(request_of(), key_header="x-soke-key") is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("k" * 8193, Reason.API_KEY_INVALID),
        ("ä", Reason.API_KEY_INVALID),
        ("a.b." + "c" * 8192, Reason.TOKEN_INVALID),
        ("a.b.ä", Reason.TOKEN_INVALID),
    ],
)
def test_what_no_core_would_take_is_refused_here(value: str, reason: Reason) -> None:
    for line in (f"Authorization: Bearer {value}", f"x-api-key: {value}"):
        with pytest.raises(EdgeError) as refused:
            credential_of(request_of(line))
        assert refused.value.reason is reason
        assert value not in refused.value.message


def test_a_token_of_eight_kibibytes_passes() -> None:
    token = "a.b." + "c" * 8188
    assert credential_of(request_of(f"Authorization: Bearer {token}")) == token
