from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dragoman_server.providers.routing.breaker import Breaker
from dragoman_server.settings import BreakerSettings

SETTINGS = BreakerSettings(failures=3, cooldown=10, max_cooldown=35)


def opened(breaker: Breaker, now: float = 0.0) -> Breaker:
    epoch = breaker.begin()
    for _ in range(SETTINGS.failures):
        breaker.failed(epoch, now)
    assert not breaker.closed
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(SETTINGS)
    epoch = breaker.begin()
    for _ in range(5):
        breaker.failed(epoch, 0)
        breaker.failed(epoch, 0)
        breaker.succeeded(epoch)
    assert breaker.closed
    assert opened(breaker, 5).free_at == 15


def test_the_trial_is_one_and_its_good_end_closes() -> None:
    breaker = opened(Breaker(SETTINGS))
    trial = breaker.begin()
    assert breaker.probing
    assert breaker.free_at == math.inf
    breaker.succeeded(trial)
    assert breaker.closed
    assert breaker.free_at == 0


def test_failed_trials_double_the_cooldown_up_to_the_bound() -> None:
    breaker = opened(Breaker(SETTINGS))
    waits = []
    for _ in range(4):
        now = breaker.free_at
        breaker.failed(breaker.begin(), now)
        waits.append(breaker.free_at - now)
    assert waits == [20, 35, 35, 35]


def test_a_first_piece_closes_on_probation() -> None:
    breaker = opened(Breaker(SETTINGS))
    trial = breaker.begin()
    breaker.answered(trial)
    assert breaker.closed
    breaker.failed(trial, 100)
    assert breaker.free_at == 120, "one failure is enough, and the cooldown has doubled"


def test_a_good_end_after_probation_forgets_everything() -> None:
    breaker = opened(Breaker(SETTINGS))
    trial = breaker.begin()
    breaker.answered(trial)
    breaker.succeeded(trial)
    breaker.failed(breaker.begin(), 50)
    assert breaker.closed
    assert opened(breaker, 50).free_at == 60


def test_what_older_requests_tell_is_not_heard() -> None:
    breaker = Breaker(SETTINGS)
    old = breaker.begin()
    opened(breaker)
    breaker.succeeded(old)
    breaker.answered(old)
    assert not breaker.closed
    trial = breaker.begin()
    breaker.failed(old, 99)
    breaker.released(old)
    assert breaker.probing
    breaker.succeeded(trial)
    breaker.failed(old, 99)
    assert breaker.closed


def test_one_grave_failure_opens_it() -> None:
    breaker = Breaker(SETTINGS)
    breaker.failed(breaker.begin(), 5, gravely=True)
    assert breaker.free_at == 15
    breaker.failed(breaker.begin(), 15)
    assert breaker.free_at == 35


def test_a_cancelled_trial_makes_room_for_another() -> None:
    breaker = opened(Breaker(SETTINGS))
    breaker.released(breaker.begin())
    assert not breaker.probing
    assert breaker.free_at == 10


class Machine(RuleBasedStateMachine):
    """Requests come only when the breaker lets them, and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SETTINGS)
        self.now = 1.0
        self.running: list[tuple[int, bool]] = []  # epoch, and whether it is a trial
        self.opened_at = -1.0

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.free_at <= self.now)
    @rule()
    def begin(self) -> None:
        trial = not self.breaker.closed
        self.running.append((self.breaker.begin(), trial))
        assert self.breaker.probing == trial

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "released", "answered"]))
    def tell(self, data: st.DataObject, outcome: str) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        epoch, _ = self.running[index]
        if outcome != "answered":
            del self.running[index]
        before = self.breaker.opened
        if outcome == "failed":
            self.breaker.failed(epoch, self.now)
        else:
            getattr(self.breaker, outcome)(epoch)
        if self.breaker.opened > before:
            wait = self.breaker.free_at - self.now
            assert 9.99 < wait < 35.01

    @invariant()
    def at_most_one_trial(self) -> None:
        if self.breaker.probing:
            assert not self.breaker.closed
            assert any(trial for _, trial in self.running)

    @invariant()
    def free_means_closed_or_due(self) -> None:
        assert (self.breaker.free_at == 0) == self.breaker.closed


TestBreaker = Machine.TestCase


@given(st.lists(st.booleans(), max_size=60))
def test_one_by_one_it_is_open_exactly_after_so_many_failures_in_a_row(outcomes: list[bool]) -> None:
    breaker, row = Breaker(SETTINGS), 0
    for good in outcomes:
        epoch = breaker.begin()
        if good:
            breaker.succeeded(epoch)
            row = 0
        else:
            breaker.failed(epoch, 0)
            row += 1
        assert breaker.closed == (row < SETTINGS.failures)
        if not breaker.closed:
            return
