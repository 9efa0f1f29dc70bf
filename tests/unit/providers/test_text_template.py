from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.providers.openai_chat.template import TextTemplate
from tests.support.upstream_server import chunk


def learned(payload: dict[str, Any], *, ensure_ascii: bool = False, indent: int | None = None) -> TextTemplate:
    template = TextTemplate()
    frame = json.dumps(payload, ensure_ascii=ensure_ascii, indent=indent).encode()
    template.learn(frame, orjson.loads(frame))
    return template


@given(st.text(), st.booleans())
def test_a_match_is_what_parsing_gives(text: str, ensure_ascii: bool) -> None:
    template = learned(chunk({"content": "first"}))
    frame = json.dumps(chunk({"content": text}), ensure_ascii=ensure_ascii).encode()
    assert template.match(frame) == text


@given(
    st.binary(max_size=30) | st.sampled_from([b'","x":"', b'"}', b"\\", b'\\"', b"\\u12", b"\x00", b"\xff", b'a","b'])
)
def test_whatever_stands_between_is_read_exactly_or_not_at_all(middle: bytes) -> None:
    template = learned(chunk({"content": "first"}))
    before, after = json.dumps(chunk({"content": "first"})).encode().split(b"first")
    frame = before + middle + after
    matched = template.match(frame)
    if matched is not None:
        assert orjson.loads(frame) == chunk({"content": matched})


@pytest.mark.parametrize(
    "payload",
    [
        {**chunk({"content": "m"}), "model": "m"},  # the text stands elsewhere too, and first
        {"content": "m", **chunk({"content": "m"})},
        chunk({"content": "m", "role": "m"}),
        chunk({"role": "m", "content": "m"}),
    ],
)
def test_a_text_that_stands_elsewhere_too_is_not_mistaken(payload: dict[str, Any]) -> None:
    template = learned(payload)
    for text in ("m", "other"):
        changed = orjson.loads(orjson.dumps(payload))
        changed["choices"][0]["delta"]["content"] = text
        assert template.match(json.dumps(changed).encode()) in (text, None)
        misleading = {**payload, "model": text, "content": text}
        assert template.match(json.dumps(misleading).encode()) in (payload["choices"][0]["delta"]["content"], None)


def test_other_chunks_do_not_match() -> None:
    template = learned(chunk({"content": "a"}))
    assert template.match(json.dumps(chunk({"content": "b"})).encode()) == "b"
    for other in (
        chunk({"content": "b"}, "stop"),
        chunk({"reasoning_content": "b"}),
        {**chunk({"content": "b"}), "id": "c2"},
    ):
        assert template.match(json.dumps(other).encode()) is None
    assert template.match(b"") is None
    assert TextTemplate().match(b"") is None


def test_a_frame_too_short_for_both_ends_does_not_match() -> None:
    frame = b'{"choices":[{"delta":{"content":"x"}}]}'
    template = TextTemplate()
    template.learn(frame, orjson.loads(frame))
    assert template.match(frame) == "x"
    assert template.match(frame.replace(b'"x"', b'"')) is None
    assert template.match(frame.replace(b'"x"', b'""')) == ""


@given(
    st.binary(max_size=20)
    | st.text(max_size=9).map(lambda text: orjson.dumps(text)[1:-1])
    | st.sampled_from([b'","x":"', b"\n", b"\n\n", b"\r\n", b'"}\n\ndata: {"content":"', b"\\", b'\\"'])
)
def test_an_event_is_matched_exactly_or_not_at_all(middle: bytes) -> None:
    template = learned(chunk({"content": "first"}))
    before, after = json.dumps(chunk({"content": "first"})).encode().split(b"first")
    event = b"data: " + before + middle + after + b"\n\n"
    matched = template.match_event(event)
    if matched is not None:
        assert orjson.loads(event[6:-2]) == chunk({"content": matched})
        assert b"\n" not in event[:-2]
    assert template.match_event(event[:-1]) is None
    assert template.match_event(event * 2) is None
    assert template.match_event(event[6:]) is None


def test_servers_that_vary_every_chunk_are_left_alone() -> None:
    template = TextTemplate()
    for at in range(20):
        frame = orjson.dumps({**chunk({"content": "a"}), "obfuscation": "x" * at})
        assert template.match(frame) is None
        template.learn(frame, orjson.loads(frame))
    steady = orjson.dumps(chunk({"content": "a"}))
    template.learn(steady, orjson.loads(steady))
    assert template.match(steady) is None
