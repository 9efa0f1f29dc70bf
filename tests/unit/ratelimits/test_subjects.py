from __future__ import annotations

from dragoman.v1.account_service_pb2 import RateLimits as Own
from dragoman_server.caller import Caller
from dragoman_server.ratelimits.subjects import Bounds, Subject, Subjects
from dragoman_server.settings import PlanSettings, RateLimitSettings, RateSettings


def subjects(**limits: RateSettings) -> Subjects:
    plan = PlanSettings(name="pro", limits=RateSettings(requests_per_minute=30))
    return Subjects(RateLimitSettings.model_validate(limits), [plan])


def test_nobody_is_limited_unless_somebody_says_so() -> None:
    unlimited = Subjects(RateLimitSettings())
    assert unlimited.of(Caller("a", "k", user_id="u", plan="pro")) == ()


def test_key_user_and_account_are_limited_each() -> None:
    rates = RateSettings(requests_per_minute=1, tokens_per_minute=2, concurrent_runs=3)
    found = subjects(key=rates, user=rates, account=rates).of(Caller("a", "k", user_id="u"))
    assert found == tuple(
        Subject(scope, "a", id_, Bounds(1, 2, 3)) for scope, id_ in (("key", "k"), ("user", "u"), ("account", "a"))
    )


def test_a_token_has_no_key_and_an_accounts_own_key_no_user() -> None:
    rates = RateSettings(requests_per_minute=1)
    limits = subjects(key=rates, user=rates)
    assert [found.scope for found in limits.of(Caller("a", "", user_id="u"))] == ["user"]
    assert [found.scope for found in limits.of(Caller("a", "k"))] == ["key"]


def test_what_a_key_has_of_its_own_wins_field_by_field() -> None:
    limits = subjects(key=RateSettings(requests_per_minute=5, tokens_per_minute=100))
    (found,) = limits.of(Caller("a", "k", key_limits=Own(requests_per_minute=50, concurrent_runs=2)))
    assert found.bounds == Bounds(50, 100, 2)


def test_minus_one_lifts_a_limit() -> None:
    limits = subjects(key=RateSettings(requests_per_minute=5, tokens_per_minute=100))
    (found,) = limits.of(Caller("a", "k", key_limits=Own(requests_per_minute=-1)))
    assert found.bounds == Bounds(0, 100, 0)
    everything = Own(requests_per_minute=-1, tokens_per_minute=-1, concurrent_runs=-1)
    assert limits.of(Caller("a", "k", key_limits=everything)) == ()


def test_an_account_has_its_own_limits_or_its_plans_or_the_servers() -> None:
    limits = subjects(account=RateSettings(requests_per_minute=5, concurrent_runs=1))
    own = Own(requests_per_minute=7)
    for caller, expected in (
        (Caller("a", "k"), Bounds(5, 0, 1)),
        (Caller("b", "k", plan="pro"), Bounds(30, 0, 1)),
        (Caller("c", "k", plan="no such plan"), Bounds(5, 0, 1)),
        (Caller("d", "k", plan="pro", account_limits=own), Bounds(7, 0, 1)),
    ):
        (found,) = limits.of(caller)
        assert found.bounds == expected


def test_changed_limits_hold_as_soon_as_the_caller_has_them() -> None:
    limits = subjects()
    (before,) = limits.of(Caller("a", "k", key_limits=Own(requests_per_minute=1)))
    (after,) = limits.of(Caller("a", "k", key_limits=Own(requests_per_minute=2)))
    assert (before.bounds.requests, after.bounds.requests) == (1, 2)
