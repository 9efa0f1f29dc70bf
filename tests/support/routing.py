"""Routes over providers that tests direct, and a clock that tests move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_STOP
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import DragomanError, ProviderError
from dragoman_server.providers.base import EventBatch, GenerationRequest, GenerationSink
from dragoman_server.providers.routing.generation import RoutedGeneration
from dragoman_server.providers.routing.route import Route
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.providers.routing.target import Target
from dragoman_server.settings import (
    BreakerSettings,
    ModelSettings,
    ProviderSettings,
    RoutingSettings,
    TargetSettings,
)
from tests.support.generation import Recording, chat

QUICK = RoutingSettings(backoff=0.001, max_backoff=0.05, breaker=BreakerSettings(failures=3, cooldown=0.2))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Played:
    """A generation of `PlayedProvider`, which the test plays by hand."""

    def __init__(self, request: GenerationRequest, sink: GenerationSink) -> None:
        self.request = request
        self.sink = sink
        self.cancelled = 0
        self.paused = False
        self.ended = False
        self.told: Usage | None = None

    def cancel(self) -> None:
        if not self.ended and not self.cancelled:
            self.cancelled += 1
            failure = ProviderError("cancelled", reason=Reason.CANCELLED, retryable=False).to_failure()
            asyncio.get_running_loop().call_soon(self.end, failure)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    @property
    def usage_so_far(self) -> Usage | None:
        return self.told

    def say(self, text: str) -> None:
        batch = EventBatch()
        batch.events.add().text_delta.text = text
        self.sink.on_events(batch)

    def report_usage(self, tokens: int) -> None:
        batch = EventBatch()
        batch.events.add().usage_reported.last_call.input_tokens = tokens
        self.sink.on_events(batch)

    def finish(self) -> None:
        batch = EventBatch()
        batch.events.add().choice_finished.finish_reason = FINISH_REASON_STOP
        self.sink.on_events(batch)
        self.end(None)

    def end(self, failure: Failure | None) -> None:
        self.ended = True
        self.sink.on_end(failure)

    def fail(self, reason: Reason = Reason.PROVIDER_UNREACHABLE, **details: Any) -> None:
        self.end(ProviderError(f"{reason} it is", reason=reason, **details).to_failure())


class PlayedProvider:
    """A provider whose generations a test plays; `refusal` may raise instead."""

    serves_any = True
    models = ()

    def __init__(self, name: str, refusal: Callable[[GenerationRequest], None] = lambda request: None) -> None:
        self.name = name
        self.ready = True
        self.refusal = refusal
        self.played: list[Played] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def start(self, request: GenerationRequest, sink: GenerationSink) -> Played:
        self.refusal(request)
        self.played.append(Played(request, sink))
        return self.played[-1]

    @property
    def last(self) -> Played:
        return self.played[-1]


class AttemptRecording(Recording):
    """A recording that keeps what it hears of attempts."""

    def on_attempt(self, generation: RoutedGeneration) -> None:
        self._check("on_attempt")
        self.attempts.append(
            (generation.attempt, generation.target.provider.name, list(generation.dropped), list(generation.emulated))
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attempts: list[tuple[int, str, list[str], list[str]]] = []


def route_over(
    *providers: Any,
    settings: RoutingSettings = QUICK,
    bounds: dict[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
    **model: Any,
) -> Route:
    """Returns a route over the model `m` of each provider, in that order unless `targets` says otherwise."""
    table = RoutingTable(
        settings,
        {provider.name: provider for provider in providers},
        [ProviderSettings(name=provider.name, dialect="scripted", **(bounds or {})) for provider in providers],
        random=Random(1),
        clock=clock or monotonic,
    )
    model.setdefault("targets", tuple(TargetSettings(provider=p.name, upstream_model="m") for p in providers))
    return table.route(ModelSettings(id="test", **model))


def ask(route: Route, prompt: str = "hello", prefer: Target | None = None) -> tuple[RoutedGeneration, AttemptRecording]:
    """Starts a generation into a new recording."""
    recording = AttemptRecording()
    generation = route.start(GenerationRequest(chat(prompt), ""), recording, prefer)
    recording.starting = False
    return generation, recording


def script(**fields: Any) -> str:
    return "SCRIPT " + json.dumps(fields)


def refused(route: Route) -> DragomanError:
    """Returns what a route refuses a request with, at once."""
    try:
        ask(route)
    except DragomanError as error:
        return error
    raise AssertionError("the request was taken")
