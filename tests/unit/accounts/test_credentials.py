from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_server.api.interceptors import caller_of, credential_in
from dragoman_server.errors import Unauthenticated

names = st.sampled_from(["authorization", "x-api-key", "api-key"])
keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
spaces = st.text(" \t", max_size=3)


@st.composite
def bearers(draw: st.DrawFn, key: str) -> str:
    scheme = "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in "bearer")
    return f"{draw(spaces)}{scheme} {draw(spaces)}{key}{draw(spaces)}"


@st.composite
def headers(draw: st.DrawFn, key: str) -> tuple[str, str]:
    name = draw(names)
    return name, draw(bearers(key)) if name == "authorization" else draw(spaces) + key + draw(spaces)


@given(st.data(), keys)
def test_one_key_is_found_in_whatever_headers_carry_it(data: st.DataObject, key: str) -> None:
    carrying = data.draw(st.lists(headers(key), min_size=1, max_size=4))
    empty = data.draw(st.lists(st.sampled_from([("x-api-key", ""), ("api-key", " "), ("authorization", "Bearer ")])))
    other: list[tuple[str, str | bytes]] = [
        ("user-agent", "x"),
        ("x-api-key-bin", b"\x00"),
        ("proxy-authorization", "Bearer other"),
    ]
    metadata = data.draw(st.permutations([*carrying, *empty, *other]))
    assert credential_in(metadata) == key


@given(st.data(), keys, keys)
def test_keys_that_differ_are_refused(data: st.DataObject, one: str, another: str) -> None:
    metadata = [data.draw(headers(one)), data.draw(headers(another))]
    if one == another:
        assert credential_in(metadata) == one
        return
    with pytest.raises(Unauthenticated, match="several") as refused:
        credential_in(metadata)
    assert refused.value.reason is Reason.API_KEY_INVALID


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer  ")],
        [("x-api-key", "")],
        [("X-Other", "key"), ("cookie", "x-api-key=key")],
    ],
)
def test_no_key_is_an_empty_one(metadata: list[tuple[str, str]]) -> None:
    assert credential_in(metadata) == ""


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "dgm_key-alone", "Bearer:key", "Token key", "Bearerkey"])
def test_another_scheme_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(Unauthenticated, match="must be `Bearer KEY`") as refused:
        credential_in([("authorization", value)])
    assert value not in refused.value.message


@given(st.lists(st.tuples(names, st.text() | st.binary())))
def test_any_metadata_is_read_or_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    try:
        found = credential_in(metadata)
    except Unauthenticated:
        return
    assert found == found.strip()


def test_without_an_interceptor_nobody_calls() -> None:
    with pytest.raises(Unauthenticated):
        caller_of()
