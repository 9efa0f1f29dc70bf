from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_edge.body import parse_json_object
from dragoman_edge.errors import EdgeError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=5)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_every_object_is_read(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse_json_object(body, 64) == value


@given(st.text(st.characters(exclude_categories=["Cs"])), VALUES, VALUES)
def test_of_a_member_that_comes_twice_the_last_counts(name: str, one: Any, two: Any) -> None:
    twice = f"{{{json.dumps(name)}: {json.dumps(one)}, {json.dumps(name)}: {json.dumps(two)}}}"
    assert parse_json_object(f'{{"a": [{twice}]}}'.encode(), 64) == {"a": [{name: two}]}


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(OBJECTS, st.integers(1, 6))
def test_depth_is_counted_exactly(value: dict[str, Any], limit: int) -> None:
    body = json.dumps(value).encode()
    if depth_of(value) <= limit:
        assert parse_json_object(body, limit) == value
    else:
        with pytest.raises(EdgeError, match="nested deeper"):
            parse_json_object(body, limit)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}}",
        b'{"a"}',
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\x00"}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": "\\"}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(EdgeError) as caught:
        parse_json_object(body, 64)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("item", ["{}", "[]", "1", '{"a":1}', '""'])
def test_bodies_that_would_swell_are_refused(item: str) -> None:
    def body(count: int) -> bytes:
        return f'{{"a": [{",".join([item] * count)}], "b": ",[{{"}}'.encode()

    assert len(parse_json_object(body(20_000), 64)["a"]) == 20_000
    with pytest.raises(EdgeError, match="values"):
        parse_json_object(body(200_000), 64)


def test_commas_and_brackets_in_texts_do_not_count() -> None:
    text = ",[{" * 100_000 + '\\"'
    assert parse_json_object(json.dumps({"a": text}).encode(), 2) == {"a": text}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = parse_json_object(body, 8)
    except EdgeError:
        return
    assert value == json.loads(body)
