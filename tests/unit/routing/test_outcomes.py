"""Whatever providers do, a generation ends once, asks no more often than it may, and leaves every target clean."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.settings import BreakerSettings, RoutingSettings
from tests.support.routing import AttemptRecording, Played, PlayedProvider, ask, route_over

SETTINGS = RoutingSettings(
    max_attempts=4, backoff=0.0001, max_backoff=0.001, breaker=BreakerSettings(failures=2, cooldown=0.002)
)

OUTCOMES = st.sampled_from(
    [
        "good",
        "refuse",
        "cut",
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_FAILED,
        Reason.PROVIDER_AUTH,
        Reason.PROVIDER_RATE_LIMITED,
        Reason.PROVIDER_REJECTED,
        Reason.CONTENT_FILTERED,
    ]
)


class ScriptedByTest(PlayedProvider):
    """Plays one outcome after the other, on the next turn of the loop, as providers do."""

    def __init__(self, name: str, outcomes: list[Any]) -> None:
        super().__init__(name)
        self.outcomes = outcomes
        self.log: list[str] = []

    def start(self, request: GenerationRequest, sink: Any) -> Played:
        outcome = self.outcomes.pop(0) if self.outcomes else "good"
        if outcome == "refuse":
            raise UnsupportedFeature("not here", field="tools")
        played = super().start(request, sink)
        asyncio.get_running_loop().call_soon(self.play, played, outcome)
        return played

    def play(self, played: Played, outcome: Any) -> None:
        if played.cancelled:
            return
        if outcome in ("good", "cut"):
            played.say("a")
            if outcome == "good":
                played.finish()
            else:
                played.fail(Reason.PROVIDER_PROTOCOL)
        else:
            played.fail(outcome, retryable=outcome != Reason.PROVIDER_AUTH)


async def drill(outcomes: list[list[Any]], strategy: str, concurrency: int, cancels: set[int]) -> None:
    providers = [ScriptedByTest(f"p{index}", list(part)) for index, part in enumerate(outcomes)]
    route = route_over(
        *providers,
        settings=SETTINGS,
        strategy=strategy,
        bounds={"max_concurrency": concurrency, "max_queue": 3, "queue_timeout": 5},
    )
    recordings: list[AttemptRecording] = []
    for number in range(6):
        try:
            generation, recording = ask(route)
        except DragomanError:
            continue
        recordings.append(recording)
        if number in cancels:
            generation.cancel()
    for recording in recordings:
        failure = await recording.end()
        assert len(recording.attempts) <= SETTINGS.max_attempts
        if failure is None:
            assert recording.text == "a"
        elif recording.text:
            assert failure.reason == Reason.PROVIDER_PROTOCOL, "only a cut answer has both"
    for option in route.options:
        assert (option.target.in_flight, option.target.queued) == (0, 0)
        assert not option.target.breaker.probing


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(OUTCOMES, max_size=8), min_size=1, max_size=3),
    st.sampled_from(["priority", "weighted", "least_outstanding", "lowest_latency"]),
    st.integers(0, 2),
    st.sets(st.integers(0, 5), max_size=3),
)
def test_every_generation_ends_once_and_every_place_is_given_back(
    outcomes: list[list[Any]], strategy: str, concurrency: int, cancels: set[int]
) -> None:
    asyncio.run(drill(outcomes, strategy, concurrency, cancels))
