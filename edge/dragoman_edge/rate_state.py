"""What is left of the caller's rate limits, and the headers that tell it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from dragoman.v1.usage_pb2 import RateState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

_KINDS = (("requests", "request_limit"), ("tokens", "token_limit"))

HEADERS = {
    f"x-ratelimit-{name}-{kind}": text.format(kind)
    for kind, _ in _KINDS
    for name, text in (
        ("limit", "How many {} a minute the caller may ask for, where there is a limit."),
        ("remaining", "How many {} are left of that."),
        ("reset", "In what time all {} are there again, for example `6m0s`."),
    )
}
"""The headers, and what they tell. OpenAI's clients know them."""


def tell_rate_state(headers: dict[str, str], state: RateState) -> None:
    """Adds the headers that tell what is left.

    Args:
        headers: Those of the answer.
        state: What is left.
    """
    now = time.time()
    if state.request_limit:
        headers["x-ratelimit-limit-requests"] = str(state.request_limit)
        headers["x-ratelimit-remaining-requests"] = str(state.requests_remaining)
        headers["x-ratelimit-reset-requests"] = duration(_seconds(state.requests_reset_time) - now)
    if state.token_limit:
        headers["x-ratelimit-limit-tokens"] = str(state.token_limit)
        headers["x-ratelimit-remaining-tokens"] = str(state.tokens_remaining)
        headers["x-ratelimit-reset-tokens"] = duration(_seconds(state.tokens_reset_time) - now)


def rate_state_of(metadata: Mapping[str, str]) -> RateState | None:
    """Returns what is left, as the metadata of a refusal by rate limits has it; None for other metadata."""
    state, now = RateState(), time.time()
    try:
        if "request_limit" in metadata:
            state.request_limit = int(metadata["request_limit"])
            state.requests_remaining = int(metadata["requests_remaining"])
            _set(state.requests_reset_time, now + float(metadata["requests_reset_seconds"]))
        if "token_limit" in metadata:
            state.token_limit = int(metadata["token_limit"])
            state.tokens_remaining = int(metadata["tokens_remaining"])
            _set(state.tokens_reset_time, now + float(metadata["tokens_reset_seconds"]))
    except (KeyError, ValueError):  # a core of another version
        return None
    return state if state.request_limit or state.token_limit else None


def duration(seconds: float) -> str:
    """Returns a time as OpenAI writes it: `20ms`, `7s`, `6m0s`; rounded up."""
    if seconds < 1:
        return f"{max(math.ceil(seconds * 1000), 0)}ms"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _seconds(time_: Timestamp) -> float:
    return time_.seconds + time_.nanos / 1e9


def _set(field: Timestamp, seconds: float) -> None:
    field.FromMilliseconds(int(seconds * 1000))
