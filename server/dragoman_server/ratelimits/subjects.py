"""Whose limits a request counts against, and what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.account_service_pb2 import RateLimits
    from dragoman_server.caller import Caller
    from dragoman_server.settings import PlanSettings, RateLimitSettings, RateSettings

_MOST_REMEMBERED = 10_000


class Bounds(NamedTuple):
    """How much may be asked for; 0 means no bound.

    Attributes:
        requests: Requests in a minute.
        tokens: Tokens in a minute, read and written ones.
        runs: Runs at a time.
    """

    requests: int
    tokens: int
    runs: int


class Subject(NamedTuple):
    """Somebody whose requests are counted.

    Attributes:
        scope: `key`, `user` or `account`.
        account_id: The account.
        id: The key, user or account.
        bounds: How much it may ask for.
    """

    scope: str
    account_id: str
    id: str
    bounds: Bounds


class Subjects:
    """Tells whose limits hold for a caller.

    What the key or account has of its own wins over the plan, and that over the settings.

    Args:
        settings: The limits of those that have none of their own.
        plans: The plans, with theirs.

    Attributes:
        only_own: Whether no limit holds but what keys and accounts have of their own.
    """

    def __init__(self, settings: RateLimitSettings, plans: Iterable[PlanSettings] = ()) -> None:
        self._key = _bounds(settings.key)
        self._user = _bounds(settings.user)
        self._account = _bounds(settings.account)
        self._plans = {plan.name: _bounds(plan.limits) for plan in plans}
        self.only_own = not any(self._key + self._user + self._account) and not any(map(any, self._plans.values()))
        self._known: dict[tuple[str, str, str], tuple[Caller, tuple[Subject, ...]]] = {}

    def of(self, caller: Caller) -> tuple[Subject, ...]:
        """Returns those whose limits hold for a caller; nobody, mostly."""
        if self.only_own and caller.key_limits is None and caller.account_limits is None:
            return ()
        name = (caller.account_id, caller.key_id, caller.user_id)
        known = self._known.get(name)
        if known is not None and known[0] is caller:  # the same object: its limits are what they were
            return known[1]
        subjects = tuple(self._limited(caller))
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[name] = caller, subjects
        return subjects

    def _limited(self, caller: Caller) -> Iterable[Subject]:
        account = caller.account_id
        plan = self._plans.get(caller.plan, _NONE)
        subjects = (
            Subject("key", account, caller.key_id, _own(caller.key_limits, self._key)),
            Subject("user", account, caller.user_id, self._user),
            Subject("account", account, account, _own(caller.account_limits, _first(plan, self._account))),
        )
        return (subject for subject in subjects if subject.id and any(subject.bounds))


_NONE = Bounds(0, 0, 0)


def _bounds(settings: RateSettings) -> Bounds:
    return Bounds(settings.requests_per_minute, settings.tokens_per_minute, settings.concurrent_runs)


def _first(wins: Bounds, otherwise: Bounds) -> Bounds:
    return Bounds(*(own or other for own, other in zip(wins, otherwise, strict=True)))


def _own(limits: RateLimits | None, otherwise: Bounds) -> Bounds:
    """Returns limits that are somebody's own: 0 leaves it to the others, -1 lifts them."""
    if limits is None:
        return otherwise
    own = Bounds(limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent_runs)
    return Bounds(*(max(bound, 0) for bound in _first(own, otherwise)))
