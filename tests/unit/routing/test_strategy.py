from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.providers.routing.strategy import STRATEGIES, Option
from dragoman_server.providers.routing.target import LATENCY_MEMORY, Bounds, Target
from dragoman_server.settings import BreakerSettings
from tests.support.routing import Clock, PlayedProvider


def target(name: str, in_flight: int = 0, latency: float | None = None) -> Target:
    made = Target(cast(Any, PlayedProvider(name)), "m", BreakerSettings(), Bounds(), Clock())
    made.in_flight, made.latency = in_flight, latency
    return made


options = st.lists(
    st.builds(
        lambda in_flight, latency, weight: Option(target("t", in_flight, latency), weight),
        st.integers(0, 5),
        st.none() | st.floats(0.001, 9),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=6,
)


@given(options, st.sampled_from(sorted(STRATEGIES)), st.integers())
def test_every_strategy_picks_one_of_the_options(options: list[Option], name: str, seed: int) -> None:
    assert STRATEGIES[name](options, 1000.0, Random(seed)) in options


@given(options, st.integers())
def test_least_outstanding_picks_a_least_busy_one(options: list[Option], seed: int) -> None:
    picked = STRATEGIES["least_outstanding"](options, 0.0, Random(seed))
    assert picked.target.in_flight == min(option.target.in_flight for option in options)


@given(options)
def test_lowest_latency_picks_the_fastest_once_all_are_known(options: list[Option]) -> None:
    picked = STRATEGIES["lowest_latency"](options, 0.0, Random(0))
    unknown = [option for option in options if option.target.latency is None]
    if unknown:
        assert picked.target.latency is None
        assert picked.target.in_flight == min(option.target.in_flight for option in unknown)
    else:
        assert picked.target.latency == min(option.target.latency or 0 for option in options)


def test_weights_are_shares() -> None:
    light, heavy = Option(target("light"), 1), Option(target("heavy"), 3)
    random = Random(7)
    counts = Counter(STRATEGIES["weighted"]([light, heavy], 0.0, random).target.provider.name for _ in range(4000))
    assert 2800 < counts["heavy"] < 3200


def test_a_latency_is_smoothed_and_forgotten_when_nobody_asks() -> None:
    measured = target("a")
    epoch = measured.begin(1000.0, again=False)
    measured.answered(epoch, 1.0)
    measured.answered(epoch, 2.0)
    assert measured.latency is not None
    assert 1.0 < measured.latency < 2.0
    assert measured.expected_latency(1000.0 + LATENCY_MEMORY) == measured.latency
    assert measured.expected_latency(1001.0 + LATENCY_MEMORY) == 0.0
