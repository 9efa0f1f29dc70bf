from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.providers.anthropic_messages.template import DeltaTemplate
from tests.support.upstream_anthropic import delta, event

SPACED = (", ", ": ")
TIGHT = (",", ":")


def encoded(payload: dict[str, Any], separators: tuple[str, str] = TIGHT, padding: int = 0) -> bytes:
    data = json.dumps(payload, separators=separators, ensure_ascii=False).encode()
    return b"event: content_block_delta\ndata: " + data[:-1] + b" " * padding + b"}"


def learned(first: bytes) -> DeltaTemplate:
    template = DeltaTemplate()
    payload = json.loads(first.partition(b"data: ")[2])
    template.learn(first, payload, payload["delta"], "text")
    return template


def text(content: str, index: int = 0) -> dict[str, Any]:
    return delta(index, "text", text=content)


@given(st.text(), st.text(), st.sampled_from([SPACED, TIGHT]), st.integers(0, 20))
def test_every_text_is_recognised(first: str, second: str, separators: tuple[str, str], padding: int) -> None:
    template = learned(encoded(text(first), separators))
    assert template.match(encoded(text(second), separators, padding)) == second


def test_events_as_the_support_server_writes_them_are_recognised() -> None:
    assert learned(event(text("a"))[:-2]).match(event(text("b"))[:-2]) == "b"


@pytest.mark.parametrize(
    "other",
    [
        encoded(text("a", index=1)),
        encoded(delta(0, "thinking", thinking="a")),
        encoded(delta(0, "text", text="a", more="b")),
        encoded({**text("a"), "more": 1}),
        encoded(text("a"))[:-1],
        encoded(text("a")) + b"}",
        encoded(text("a")) + b"\nid: 7",
        encoded(text("a"), SPACED),
        encoded(text("a")).replace(b'"a"', b'"a\n"'),
        encoded(text("a")).replace(b'"a"', b"null"),
        encoded(text("a")).replace(b'"a"', b'"\\x"'),
        b"",
    ],
)
def test_other_events_are_not(other: bytes) -> None:
    assert learned(encoded(text("x"))).match(other) is None


def test_nothing_is_recognised_before_one_is_learned_and_after_it_is_forgotten() -> None:
    assert DeltaTemplate().match(encoded(text("a"))) is None
    template = learned(encoded(text("a")))
    template.clear()
    assert template.match(encoded(text("a"))) is None


def test_an_event_with_more_behind_the_text_is_not_learned() -> None:
    for _ in range(9):
        template = learned(encoded(dict(reversed(text("a").items()))))
        assert template.match(encoded(dict(reversed(text("b").items())))) is None


def test_a_server_that_varies_every_event_is_given_up() -> None:
    template = DeltaTemplate()
    for number in range(9):
        varied = {**text("a"), "number": number}
        template.learn(encoded(varied), varied, varied["delta"], "text")
    plain = text("a")
    template.learn(encoded(plain), plain, plain["delta"], "text")
    assert template.match(encoded(text("b"))) is None
