"""The headers of every answer: what is left of the caller's limits and credits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run

if TYPE_CHECKING:
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman.v1.usage_pb2 import RateState

LIMIT, REMAINING, RESET = "X-Soke-Limit", "X-Soke-Remaining", "X-Soke-Reset"
CREDITS_REMAINING, CREDITS_USED = "X-Soke-Credits-Remaining", "X-Soke-Credits-Used"

HEADERS = {
    LIMIT: "How many requests a minute the caller may ask for, where there is a limit.",
    REMAINING: "How many are left of that.",
    RESET: "When all of them are there again, in Unix seconds.",
    CREDITS_REMAINING: "How many credits are left, where they are counted.",
    CREDITS_USED: "How many this request cost.",
}
"""The headers, and what they tell."""

_MICROS = 1_000_000


def tell_limits(headers: dict[str, str], state: RateState) -> None:
    """Adds the headers that tell what is left of the requests, if they are limited."""
    if state.request_limit:
        headers[LIMIT] = str(state.request_limit)
        headers[REMAINING] = str(state.requests_remaining)
        reset = state.requests_reset_time
        headers[RESET] = str(reset.seconds + (reset.nanos > 0))  # a client that waits until then is not too early


def tell_run(headers: dict[str, str], told: Run | StreamRunResponse) -> None:
    """Adds the headers of a run that has ended, or of a batch with the beginning of one."""
    if isinstance(told, Run):
        if told.HasField("rate_state"):
            tell_limits(headers, told.rate_state)
        if told.HasField("charge"):
            headers[CREDITS_REMAINING] = credits_text(told.charge.available_micros)
            headers[CREDITS_USED] = credits_text(told.charge.amount_micros)
        return
    for event in told.events:
        if event.HasField("run_started"):
            tell_limits(headers, event.run_started.rate_state)


def credits_text(micros: int) -> str:
    """Returns millionths as credits: `495`, `0.5`, `0.000001`."""
    whole, rest = divmod(micros, _MICROS)
    return f"{whole}.{rest:06}".rstrip("0") if rest else str(whole)
