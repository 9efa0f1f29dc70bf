"""What one request has tried so far, and what it may try next. It decides; it neither waits nor calls anyone."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.failure_pb2 import Failure
from dragoman_server.errors import DragomanError, ProviderError, Unavailable

if TYPE_CHECKING:
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.providers.routing.target import Target

PROBE_RETRY_AFTER = 1.0
"""Seconds after which to come back when every target is just being tried by another request."""


class Verdict(Enum):
    """What a failure means for the request."""

    FINAL = "final"
    """No target would do better."""
    ELSEWHERE = "elsewhere"
    """Another target may do better, this one will not."""
    AGAIN = "again"
    """Another target may do better, or this one later."""


_VERDICTS = {
    Reason.PROVIDER_UNREACHABLE: Verdict.AGAIN,
    Reason.PROVIDER_TIMEOUT: Verdict.AGAIN,
    Reason.PROVIDER_PROTOCOL: Verdict.AGAIN,
    Reason.PROVIDER_FAILED: Verdict.AGAIN,
    Reason.PROVIDER_RATE_LIMITED: Verdict.AGAIN,
    Reason.PROVIDER_AUTH: Verdict.ELSEWHERE,
    Reason.MODEL_NOT_FOUND: Verdict.ELSEWHERE,
    Reason.UNSUPPORTED_FEATURE: Verdict.ELSEWHERE,
    Reason.OVERLOADED: Verdict.ELSEWHERE,
    Reason.MODEL_NOT_READY: Verdict.ELSEWHERE,
    Reason.SHUTTING_DOWN: Verdict.ELSEWHERE,
    Reason.UNIMPLEMENTED: Verdict.ELSEWHERE,
}
"""By reason; what is not listed is final: the request itself is at fault, or this server."""


_REFUSALS = {
    Reason.PROVIDER_AUTH: "refuse this server's credential",
    Reason.PROVIDER_RATE_LIMITED: "say that this server's quota is spent",
}
"""For what targets may be left alone so that no request can be helped until somebody does something, in words."""


def verdict_of(reason: str, *, retryable: bool) -> Verdict:
    """Returns what a failure before the first content means; one that retrying cannot help is not met here again."""
    verdict = _VERDICTS.get(reason, Verdict.FINAL)  # type: ignore[call-overload] # a Reason is a str
    return Verdict.ELSEWHERE if verdict is Verdict.AGAIN and not retryable else verdict


class Attempts:
    """The attempts of one request.

    Args:
        route: Where it may go.
        prefer: The target to ask first, available or not; None leaves it to the strategy.

    Attributes:
        count: How many targets were asked so far.
    """

    __slots__ = ("_cause", "_last", "_over", "_prefer", "_refusal", "_rounds", "_route", "_tried", "count")

    def __init__(self, route: Route, prefer: Target | None = None) -> None:
        self._route = route
        self._prefer = prefer
        self._tried: dict[Target, float] = {}  # from when on each may be asked again
        self._rounds = 0
        self._over = False
        self._last: DragomanError | Failure | None = None
        self._cause: DragomanError | Failure | None = None  # the one before the last
        self._refusal: DragomanError | Failure | None = None  # the first target's that lacks a feature
        self.count = 0

    def pick(self, now: float) -> Target | None:
        """Returns the target to ask now, if there is one."""
        if self._over:
            return None
        tried, prefer = self._tried, self._prefer
        if prefer is not None and prefer not in tried:
            return prefer
        for tier in self._route.tiers:
            if len(tier) == 1:
                target = tier[0].target
                if target not in tried and target.free_at() <= now:
                    return target
                continue
            fresh = [option for option in tier if option.target not in tried and option.target.free_at() <= now]
            if fresh:
                return (
                    fresh[0].target if len(fresh) == 1 else self._route.strategy(fresh, now, self._route.random).target
                )
        return None

    def delay(self, now: float) -> float | None:
        """Returns how many seconds to wait before one of the targets that failed is asked again; None if none is.

        From then on `pick` returns them again.
        """
        if self._over:
            return None
        settings, tried = self._route.settings, self._tried
        soonest = min((max(at, target.free_at()) for target, at in tried.items()), default=math.inf)
        if soonest - now > settings.max_backoff:
            return None
        most = min(settings.max_backoff, settings.backoff * 2.0**self._rounds)
        self._rounds += 1
        wake = max(soonest, now + self._route.random.uniform(0, most))
        self._tried = {target: at for target, at in tried.items() if at > wake}
        return max(0.0, wake - now)

    def refused(self, target: Target, error: DragomanError) -> None:
        """Takes note that a target refused before it was called. It would do so again."""
        self._note(error)
        self._tried[target] = math.inf
        self._over = verdict_of(error.reason, retryable=error.retryable) is Verdict.FINAL

    def failed(self, target: Target, failure: Failure, now: float, error: DragomanError | None = None) -> None:
        """Takes note that a target failed before the first content; `error` is the failure as it was raised, if so."""
        verdict = verdict_of(failure.reason, retryable=failure.retryable)
        self._note(error or failure)
        self._over = verdict is Verdict.FINAL or self.count >= self._route.max_attempts
        wait = failure.retry_after.ToNanoseconds() / 1e9 if failure.HasField("retry_after") else 0.0
        again = verdict is Verdict.AGAIN and wait <= self._route.settings.max_backoff
        self._tried[target] = now + wait if again else math.inf

    def skip(self, target: Target) -> None:
        """Takes note that a target is shut off by now."""
        self._tried[target] = math.inf

    def overdue(self) -> DragomanError:
        """Returns what the request fails with when the time of all attempts together is over."""
        message = f"the answer took longer than {self._route.settings.total_timeout:g} s, all attempts together"
        metadata = {"attempts": str(self.count)}
        return ProviderError(message, reason=Reason.PROVIDER_TIMEOUT, metadata=metadata)

    def error(self, now: float) -> DragomanError:
        """Returns what the request fails with, where every failure so far was raised."""
        answer = self._last or self._refusal
        if not isinstance(answer, DragomanError):
            return self._nobody(now)
        if self.count > 1:
            answer.metadata["attempts"] = str(self.count)
        return answer

    def failure(self, now: float) -> Failure:
        """Returns what the request fails with: the last failure, which tells of the attempts before it."""
        answer = self._last or self._refusal or self._nobody(now)
        failure = Failure()
        failure.CopyFrom(_as_failure(answer))
        if self.count > 1:
            failure.metadata["attempts"] = str(self.count)
        if self._cause is not None:
            failure.cause.CopyFrom(_as_failure(self._cause))
        return failure

    def _note(self, problem: DragomanError | Failure) -> None:
        if problem.reason == Reason.UNSUPPORTED_FEATURE:
            self._refusal = self._refusal or problem
        else:
            self._last, self._cause = problem, self._last

    def _nobody(self, now: float) -> DragomanError:
        """Returns the refusal for when all targets are shut off or cooling."""
        targets = [option.target for tier in self._route.tiers for option in tier]
        wait = min(target.free_at() for target in targets) - now
        retry_after = max(0.0, wait) if wait < math.inf else PROBE_RETRY_AFTER
        metadata = {"model": self._route.model_id}
        providers = f"the providers of the model `{self._route.model_id}`"
        if all(target.breaker.closed for target in targets):
            message, reason = f"{providers} ask for a pause; try again later", Reason.PROVIDER_RATE_LIMITED
            return ProviderError(message, reason=reason, metadata=metadata, retry_after=retry_after)
        for refusal, what in _REFUSALS.items():
            if all(not target.breaker.closed and target.fault == refusal for target in targets):
                return ProviderError(
                    f"{providers} {what}, and are left alone for a while",
                    reason=refusal,
                    metadata=metadata,
                    retryable=False,
                    retry_after=retry_after,
                )
        message = f"{providers} failed too often and are left alone for a while"
        return Unavailable(message, metadata=metadata, retry_after=retry_after)


def _as_failure(problem: DragomanError | Failure) -> Failure:
    return problem.to_failure() if isinstance(problem, DragomanError) else problem
