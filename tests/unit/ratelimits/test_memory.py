from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.errors import RateLimited
from dragoman_server.ratelimits.memory import MemoryCounters, MemorySlot
from dragoman_server.ratelimits.subjects import Bounds, Subject


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def subject(requests: int = 0, tokens: int = 0, runs: int = 0, scope: str = "key") -> Subject:
    return Subject(scope, "a", f"the {scope}", Bounds(requests, tokens, runs))


def test_a_window_of_a_minute_begins_with_the_first_request() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key = subject(requests=2)
    counters.admit((key,))
    time.now += 59.9
    counters.admit((key,))
    with pytest.raises(RateLimited) as refused:
        counters.admit((key,))
    assert refused.value.retry_after == pytest.approx(0.1)
    time.now += 0.1
    state = counters.admit((key,)).state
    assert state is not None
    assert (state.request_limit, state.requests_remaining) == (2, 1)


def test_asking_what_is_left_counts_nothing() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key = subject(requests=2, tokens=10)
    assert counters.peek((key,)).requests == (2, 2, 0.0)
    assert len(counters) == 0
    slot = counters.admit((key,))
    slot.end(4)
    time.now += 20
    for _ in range(3):
        left = counters.peek((key, subject(requests=9, scope="account")))
        assert (left.requests, left.tokens) == ((2, 1, 40.0), (10, 6, 40.0))
    time.now += 40
    assert counters.peek((key,)).requests == (2, 2, 0.0)


def test_a_refusal_says_whose_limit_it_was_and_when_to_come_back() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key, account = subject(requests=10, tokens=1000), subject(requests=1, scope="account")
    counters.admit((key, account))
    time.now += 15
    with pytest.raises(RateLimited) as refused:
        counters.admit((key, account))
    error = refused.value
    assert error.metadata == {
        "scope": "account",
        "limit_name": "requests_per_minute",
        "limit": "1",
        "remaining": "0",
        "reset_seconds": "45.000",
        "request_limit": "1",
        "requests_remaining": "0",
        "requests_reset_seconds": "45.000",
        "token_limit": "1000",
        "tokens_remaining": "1000",
        "tokens_reset_seconds": "45.000",
    }
    assert error.retry_after == 45
    assert error.retryable
    assert "account" in error.message


def test_of_several_used_up_limits_the_one_that_lasts_longest_is_told() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key, account = subject(requests=1), subject(tokens=10, runs=1, scope="account")
    counters.admit((key,))
    time.now += 20
    counters.admit((account,)).end(10)
    counters.admit((subject(runs=1, scope="user"),))
    with pytest.raises(RateLimited) as refused:
        counters.admit((key, account))
    assert refused.value.metadata["limit_name"] == "tokens_per_minute"
    assert refused.value.retry_after == 60


def test_a_refused_request_counts_nowhere() -> None:
    counters = MemoryCounters(Time())
    key, account = subject(requests=5), subject(requests=1, scope="account")
    counters.admit((key, account))
    for _ in range(9):
        with pytest.raises(RateLimited):
            counters.admit((key, account))
    state = counters.admit((key,)).state
    assert state is not None
    assert state.requests_remaining == 3


def test_tokens_count_when_the_run_ends_and_refuse_the_next_one() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key = subject(tokens=100)
    first, second = counters.admit((key,)), counters.admit((key,))
    first.end(99)
    assert counters.admit((key,)).state is not None
    second.end(500)  # one run may go too far
    with pytest.raises(RateLimited) as refused:
        counters.admit((key,))
    assert refused.value.metadata["tokens_remaining"] == "0"
    time.now += 60
    counters.admit((key,))


def test_tokens_of_a_long_run_count_in_the_minute_in_which_it_ends() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key = subject(tokens=100)
    slot = counters.admit((key,))
    time.now += 300
    slot.end(100)
    with pytest.raises(RateLimited):
        counters.admit((key,))


def test_runs_that_go_on_are_counted_until_they_end() -> None:
    time = Time()
    counters = MemoryCounters(time)
    key = subject(runs=2)
    first, _second = counters.admit((key,)), counters.admit((key,))
    time.now += 3600
    with pytest.raises(RateLimited) as refused:
        counters.admit((key,))
    assert refused.value.metadata["limit_name"] == "concurrent_runs"
    assert refused.value.retry_after == 1
    first.end(0)
    first.end(0)
    counters.admit((key,))
    with pytest.raises(RateLimited):
        counters.admit((key,))


def test_without_a_limit_by_the_minute_there_is_nothing_to_tell() -> None:
    assert MemoryCounters(Time()).admit((subject(runs=2),)).state is None


def test_the_state_is_that_of_the_limit_nearest_to_its_end() -> None:
    counters = MemoryCounters(Time())
    state = counters.admit((subject(requests=10, tokens=5), subject(requests=3, tokens=50, scope="account"))).state
    assert state is not None
    assert (state.request_limit, state.requests_remaining) == (3, 2)
    assert (state.token_limit, state.tokens_remaining) == (5, 5)


def test_who_is_not_heard_of_is_forgotten_unless_a_run_goes_on() -> None:
    time = Time()
    counters = MemoryCounters(time)
    busy = counters.admit((Subject("key", "a", "busy", Bounds(0, 0, 1)),))
    for i in range(100):
        counters.admit((Subject("key", "a", f"k{i}", Bounds(9, 0, 0)),)).end(1)
    time.now += 121
    counters.admit((subject(requests=1),)).end(0)
    assert len(counters) == 2
    with pytest.raises(RateLimited):
        counters.admit((Subject("key", "a", "busy", Bounds(0, 0, 1)),))
    busy.end(0)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.sampled_from((0, 1, 2))),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=60,
)


@given(acts=ACTS, requests=st.integers(1, 5), runs=st.integers(1, 3), tokens=st.integers(1, 60))
def test_nothing_passes_a_limit(acts: list[tuple[str, int]], requests: int, runs: int, tokens: int) -> None:
    """A plain model beside: of each subject, the window's counts and the runs that go on."""
    time = Time()
    counters = MemoryCounters(time)
    both = (subject(requests, tokens, runs), subject(requests + 1, tokens, runs, scope="account"))
    model = {s.scope: {"reset": 0.0, "requests": 0, "tokens": 0, "runs": 0} for s in both}
    live: list[tuple[MemorySlot, tuple[Subject, ...]]] = []

    def advance(count: dict[str, float]) -> None:
        if count["reset"] <= time.now:
            count.update(reset=time.now + 60, requests=0, tokens=0)

    for act, number in acts:
        if act == "wait":
            time.now += number
        elif act == "end" and live:
            slot, asked = live.pop(number % len(live))
            slot.end(number)
            for s in asked:
                advance(model[s.scope])
                model[s.scope]["tokens"] += number
                model[s.scope]["runs"] -= 1
        elif act == "admit":
            asked = both[:number] or both[1:]
            for s in asked:
                advance(model[s.scope])
            fits = all(
                model[s.scope]["requests"] < s.bounds.requests
                and model[s.scope]["tokens"] < s.bounds.tokens
                and model[s.scope]["runs"] < s.bounds.runs
                for s in asked
            )
            try:
                live.append((counters.admit(asked), asked))
                admitted = True
            except RateLimited:
                admitted = False
            assert admitted == fits
            if admitted:
                for s in asked:
                    model[s.scope]["requests"] += 1
                    model[s.scope]["runs"] += 1
