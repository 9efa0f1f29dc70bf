"""A route: the targets of a model, and the rules by which they are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from dragoman_server.providers.routing.call import call
from dragoman_server.providers.routing.generation import RoutedGeneration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from random import Random

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.routing.adaptation import Check, Policy
    from dragoman_server.providers.routing.deadlines import Deadlines
    from dragoman_server.providers.routing.generation import AttemptSink
    from dragoman_server.providers.routing.strategy import Option, Strategy
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.settings import RoutingSettings
    from dragoman_server.telemetry.tracing import Tracer

T = TypeVar("T")


def _anything(target: Target) -> None:
    """Takes every target."""


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers for a model.

    Attributes:
        model_id: The catalogue's id, after aliases were resolved.
        options: Its targets; at least one.
        settings: Timeouts and waits.
        max_attempts: Most targets that are asked for one answer, retries included.
        deadlines: Where generations await the end of their time.
        clock: Seconds that never go back.
        random: Chance, for strategies and waits.
        strategy: Picks among targets of the same order.
        policy: What may be done where a target lacks a feature.
        checks: What refuses requests that a target is known not to serve.
        tracer: Traces the attempts, if anyone does.
        tiers: The targets by order, the lowest first.
        only: The target, if there is only one.
    """

    model_id: str
    options: Sequence[Option]
    settings: RoutingSettings
    max_attempts: int
    deadlines: Deadlines[RoutedGeneration]
    clock: Callable[[], float]
    random: Random
    strategy: Strategy
    policy: Policy
    checks: Mapping[Target, Check]
    tracer: Tracer | None = None
    tiers: Sequence[Sequence[Option]] = field(init=False)
    only: Target | None = field(init=False)

    def __post_init__(self) -> None:
        by_order = sorted(self.options, key=lambda option: option.order)
        tiers = tuple(tuple(tier) for _, tier in groupby(by_order, lambda option: option.order))
        object.__setattr__(self, "tiers", tiers)
        object.__setattr__(self, "only", self.options[0].target if len(self.options) == 1 else None)

    @property
    def target(self) -> Target:
        """The target that comes first when nothing is known."""
        return self.tiers[0][0].target

    def start(self, request: GenerationRequest, sink: AttemptSink, prefer: Target | None = None) -> RoutedGeneration:
        """Starts a generation on the first target that takes it, or enters its queue.

        What fails before the first content is tried again: on another target at once, on the same one after a wait.

        Args:
            request: The request; its `model` is filled in for each target, unless it is there already.
            sink: Takes events, attempts and the end.
            prefer: The target to ask first whatever the strategy says: that of another choice of the same run.

        Raises:
            DragomanError: If no target takes the request; the sink is then never called.
        """
        generation = RoutedGeneration(self, request, sink, prefer)
        generation.begin()
        return generation

    def describe(self, model: Model) -> None:
        """Writes into a catalogue entry who serves it, how they fare, and whether it can be asked for now."""
        now = self.clock()
        model.ready = any(option.target.may_serve(now) for option in self.options)
        del model.targets[:]
        for tier in self.tiers:
            for target, weight, order in tier:
                model.targets.append(target.describe(weight, order))

    async def call(self, function: Callable[[Target], Awaitable[T]], check: Callable[[Target], None] = _anything) -> T:
        """Returns what a function of a target returns: tried on one target after the other, by the rules of `start`.

        Cancelling the task cancels the function, or takes it out of the queue.

        Args:
            function: Calls the target's provider; it raises DragomanError for whatever goes wrong.
            check: Raises UnsupportedFeature for a target that is known to be unable; that is then not asked.

        Raises:
            DragomanError: The last failure, once there is nothing left to try.
        """
        return await call(self, function, check)
