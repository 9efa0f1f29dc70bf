from __future__ import annotations

from collections.abc import Awaitable

import pytest
from prometheus_client import CollectorRegistry

from dragoman_server.caller import Caller
from dragoman_server.errors import InvalidRequest, RateLimited
from dragoman_server.ratelimits.service import RateLimits, Slot
from dragoman_server.settings import RateLimitSettings, RateSettings

ONE = RateSettings(requests_per_minute=1)


def admit(limits: RateLimits, caller: Caller) -> Slot:
    slot = limits.admit(caller)
    assert not isinstance(slot, Awaitable), "counts in memory must not have to be awaited"
    return slot


def test_without_limits_every_slot_is_the_same_and_says_nothing() -> None:
    limits = RateLimits(RateLimitSettings())
    caller = Caller("a", "k")
    assert not limits.concerns(caller)
    slot = admit(limits, caller)
    assert slot is admit(limits, caller)
    assert slot.state is None
    slot.end(5)


def test_keys_of_different_accounts_do_not_share_a_limit() -> None:
    limits = RateLimits(RateLimitSettings(key=ONE, user=ONE, account=ONE))
    for caller in (Caller("a", "k", user_id="u"), Caller("b", "k", user_id="u")):
        assert limits.concerns(caller)
        admit(limits, caller)
        with pytest.raises(RateLimited):
            limits.admit(caller)


def test_refusals_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    limits = RateLimits(RateLimitSettings(key=ONE), registry=registry)
    admit(limits, Caller("a", "k"))
    for _ in range(3):
        with pytest.raises(RateLimited):
            limits.admit(Caller("a", "k"))
    labels = {"scope": "key", "limit": "requests_per_minute"}
    assert registry.get_sample_value("dragoman_rate_limited_total", labels) == 3
    assert registry.get_sample_value("dragoman_rate_limit_storage_failures_total") == 0


@pytest.mark.parametrize("url", ["", "memory", "memcached://h", "redis:h", "redis://h:port"])
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RateLimits(RateLimitSettings.model_validate({"storage": url}))
    assert refused.value.field == "rate_limits.storage"


def test_an_address_with_a_password_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as refused:
        RateLimits(RateLimitSettings.model_validate({"storage": "redis://user:s3cret@h:port/0"}))
    assert "s3cret" not in refused.value.message
