"""The usage in its wire form says what a usage filled in by hand says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.usage_pb2 import Usage
from dragoman_server.providers.openai_chat.usage import usage_of
from dragoman_server.providers.usage import MOST_TOKENS

COUNT = (
    st.integers(0, 300)
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([0x7F, 0x80, 0x3FFF, 0x4000, MOST_TOKENS - 1, MOST_TOKENS, None, True, 2.0, "3", [4]])
)
READ = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "text_tokens")
WRITTEN = (
    "reasoning_tokens",
    "audio_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
    "text_tokens",
)


def details(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, 7, "x", []]) | st.dictionaries(st.sampled_from([*names, "new_tokens"]), COUNT)


def whole(value: Any) -> int:
    return int(value) if isinstance(value, int) and 0 < value < MOST_TOKENS else 0


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": COUNT,
            "completion_tokens": COUNT,
            "total_tokens": COUNT,
            "prompt_cache_hit_tokens": COUNT,
            "prompt_tokens_details": details(READ),
            "completion_tokens_details": details(WRITTEN),
        },
    )
)
def test_any_usage(reported: dict[str, Any]) -> None:
    asked, answered = reported.get("prompt_tokens"), reported.get("completion_tokens")
    written = reported.get("completion_tokens_details")
    thoughts = written.get("reasoning_tokens") if isinstance(written, dict) else None
    if all(type(count) is int for count in (asked, answered, thoughts)):
        apart = reported.get("total_tokens") == asked + answered + thoughts  # type: ignore[operator]
        answered += thoughts if apart else 0  # type: ignore[operator]
    expected = Usage(input_tokens=whole(asked), output_tokens=whole(answered))
    for key, names, message in (
        ("prompt_tokens_details", READ, expected.input_details),
        ("completion_tokens_details", WRITTEN, expected.output_details),
    ):
        told = reported.get(key)
        for name, value in told.items() if isinstance(told, dict) else ():
            if name in names and value is not None:
                message.SetInParent()
                setattr(message, name, whole(value))
    told = reported.get("prompt_tokens_details")
    cached = reported.get("prompt_cache_hit_tokens")
    if cached and (not isinstance(told, dict) or told.get("cached_tokens") is None):
        expected.input_details.SetInParent()
        expected.input_details.cached_tokens = whole(cached)
    assert usage_of(reported) == expected


@given(st.integers(1, 0x5000), st.integers(1, 0x5000))
def test_common_counts(read: int, written: int) -> None:
    assert usage_of({"prompt_tokens": read, "completion_tokens": written}) == Usage(
        input_tokens=read, output_tokens=written
    )


@pytest.mark.parametrize(
    ("answered", "thoughts", "total", "output"),
    [
        (1499, 2809, 14_428, 4308),  # xAI's way: apart
        (4308, 2809, 14_428, 4308),  # everybody else's: within
        (1499, 0, 11_619, 1499),
        (1499, 2809, None, 1499),  # nobody tells
        (0, 94, 10_214, 94),
    ],
)
def test_thoughts_are_tokens_of_the_answer_however_they_are_counted(
    answered: int, thoughts: int, total: int | None, output: int
) -> None:
    usage = usage_of(
        {
            "prompt_tokens": 10_120,
            "completion_tokens": answered,
            "total_tokens": total,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }
    )
    assert (usage.input_tokens, usage.output_tokens) == (10_120, output)
    assert usage.output_details.reasoning_tokens == thoughts
