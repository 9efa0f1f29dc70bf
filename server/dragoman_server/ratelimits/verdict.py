"""What counts mean: whether a request may pass, and what is left of the limits."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragoman.v1.usage_pb2 import RateState
from dragoman_server.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from dragoman_server.ratelimits.subjects import Subject

WINDOW_SECONDS = 60.0
"""Length of a window. It begins with the first request that is counted in it, and is not moved."""

RUN_RETRY_SECONDS = 1.0
"""When to try again if too many runs go on: nobody knows when one of them ends."""


class Counts(Protocol):
    """What was counted of a subject."""

    @property
    def requests(self) -> int:
        """Requests in the window."""

    @property
    def tokens(self) -> int:
        """Tokens in the window."""

    @property
    def runs(self) -> int:
        """Runs that go on."""

    @property
    def reset(self) -> float:
        """When the window ends."""


class _Excess(NamedTuple):
    """A limit that is used up, and the seconds until it is not."""

    wait: float
    subject: Subject
    name: str
    bound: int


def passes(subject: Subject, counts: Counts) -> bool:
    """Tells whether one more request is within the limits."""
    requests, tokens, runs = subject.bounds
    return not (
        (requests and counts.requests >= requests)
        or (tokens and counts.tokens >= tokens)
        or (runs and counts.runs >= runs)
    )


def refusal(subjects: Sequence[Subject], counted: Sequence[Counts], now: float) -> RateLimited:
    """Returns why a request is refused: of the limits that are used up, the one that lasts longest.

    Args:
        subjects: Whose limits hold; one of them at least is used up.
        counted: What was counted of each.
        now: The time, by the clock of `reset`.
    """
    wait, subject, name, bound = max(_excesses(subjects, counted, now), key=lambda excess: excess.wait)
    metadata = {
        "scope": subject.scope,
        "limit_name": name,
        "limit": str(bound),
        "remaining": "0",
        "reset_seconds": f"{wait:.3f}",
    }
    left = remains(subjects, counted, now)
    for kind, (limit, remaining, reset) in (("request", left.requests), ("token", left.tokens)):
        if limit:
            metadata[f"{kind}_limit"] = str(limit)
            metadata[f"{kind}s_remaining"] = str(remaining)
            metadata[f"{kind}s_reset_seconds"] = f"{reset:.3f}"
    return RateLimited(_message(subject.scope, name, bound, wait), metadata=metadata, retry_after=wait)


def _excesses(subjects: Sequence[Subject], counted: Sequence[Counts], now: float) -> list[_Excess]:
    found = []
    for subject, counts in zip(subjects, counted, strict=True):
        requests, tokens, runs = subject.bounds
        wait = max(counts.reset - now, 0.001)
        if requests and counts.requests >= requests:
            found.append(_Excess(wait, subject, "requests_per_minute", requests))
        if tokens and counts.tokens >= tokens:
            found.append(_Excess(wait, subject, "tokens_per_minute", tokens))
        if runs and counts.runs >= runs:
            found.append(_Excess(RUN_RETRY_SECONDS, subject, "concurrent_runs", runs))
    return found


def _message(scope: str, name: str, bound: int, wait: float) -> str:
    if name == "concurrent_runs":
        return f"the {scope} has as many runs going on as its limit of {bound} allows; wait until one has ended"
    what = name.removesuffix("_per_minute")
    return f"the {scope} has used up its limit of {bound} {what} a minute; try again in {math.ceil(wait)} s"


class Left(NamedTuple):
    """What is left of one kind of limit: of all subjects, where the least is left.

    Attributes:
        limit: The limit; 0 if nobody has one.
        remaining: What is left of it.
        reset: Seconds until all of it is there again.
    """

    limit: int
    remaining: int
    reset: float


class Remains(NamedTuple):
    """What is left of the limits.

    Attributes:
        requests: Of those of requests.
        tokens: Of those of tokens.
    """

    requests: Left
    tokens: Left

    def to_state(self, now: float | None = None) -> RateState | None:
        """Returns it as the contract has it; None if there are no such limits.

        Args:
            now: Seconds since the epoch; the time if not given.
        """
        if not self.requests.limit and not self.tokens.limit:
            return None
        now = time.time() if now is None else now
        state = RateState()
        if self.requests.limit:
            state.request_limit, state.requests_remaining, seconds = self.requests
            _set_time(state.requests_reset_time, now + seconds)
        if self.tokens.limit:
            state.token_limit, state.tokens_remaining, seconds = self.tokens
            _set_time(state.tokens_reset_time, now + seconds)
        return state


_NO_LIMIT = Left(0, 0, 0.0)

NOTHING = Remains(_NO_LIMIT, _NO_LIMIT)
"""What is told where nothing is known."""


def remains(subjects: Sequence[Subject], counted: Sequence[Counts], now: float) -> Remains:
    """Returns what is left, by the clock of `reset`."""
    requests = tokens = _NO_LIMIT
    for subject, counts in zip(subjects, counted, strict=True):
        bounds = subject.bounds
        if bounds.requests:
            left = max(bounds.requests - counts.requests, 0)
            if not requests.limit or left < requests.remaining:
                requests = Left(bounds.requests, left, max(counts.reset - now, 0.0))
        if bounds.tokens:
            left = max(bounds.tokens - counts.tokens, 0)
            if not tokens.limit or left < tokens.remaining:
                tokens = Left(bounds.tokens, left, max(counts.reset - now, 0.0))
    return Remains(requests, tokens)


def _set_time(field: Timestamp, seconds: float) -> None:
    field.seconds = int(seconds)
    field.nanos = int(seconds % 1 * 1000) * 1_000_000
