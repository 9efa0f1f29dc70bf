"""A generation that finds its target: waits, asks, and asks again or elsewhere until the first content."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, ProviderError, Unavailable, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest, GenerationSink
from dragoman_server.providers.routing.adaptation import checked, start_adapted
from dragoman_server.providers.routing.attempts import Attempts
from dragoman_server.providers.routing.tracing import traced
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dragoman.v1.event_pb2 import FinishReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import EventBatch, Generation
    from dragoman_server.providers.routing.adaptation import Start
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.providers.routing.target import Target

logger = get_logger(__name__)


class AttemptSink(GenerationSink, Protocol):
    """A sink that hears of attempts, too."""

    def on_attempt(self, generation: RoutedGeneration) -> None:
        """Takes note that another attempt began, or the first one otherwise than it was announced.

        Read `target`, `attempt`, `lost`, `dropped` and `emulated`. Comes before any event of that attempt, never from
        inside `Route.start`: whoever starts a generation reads them by itself.
        """


class RoutedGeneration:
    """One generation over one or several attempts. It is the sink of the provider's generation of each.

    Once content flows, it goes straight to the sink.

    Attributes:
        target: Which target is asked, or waited for.
        attempt: Number of the attempt, from 1.
        lost: What the attempt before consumed, as far as its provider told.
        dropped: Fields of the request that the attempt leaves out.
        emulated: Features that the server stands in for in the attempt.
        on_events: Takes the events of the attempt; the provider calls it.
        on_text: Takes text of the attempt; the provider may call it.
    """

    target: Target
    on_events: Callable[[EventBatch], None]
    on_text: Callable[[str], None]

    __slots__ = (
        "_announced",
        "_asked_at",
        "_count",
        "_current",
        "_ended",
        "_epoch",
        "_has_content",
        "_history",
        "_paused",
        "_prefer",
        "_request",
        "_route",
        "_sink",
        "_timer",
        "_told",
        "attempt",
        "dropped",
        "emulated",
        "lost",
        "on_events",
        "on_text",
        "target",
    )

    def __init__(self, route: Route, request: GenerationRequest, sink: AttemptSink, prefer: Target | None) -> None:
        self._route = route
        self._request = request
        self._sink = sink
        self._prefer = prefer
        self._count = 0  # of targets asked
        self.attempt = 1
        self._history: Attempts | None = None
        self._announced: Target | None = None
        self._current: Generation | None = None  # what the provider runs
        self._timer: asyncio.TimerHandle | None = None  # while backing off
        self._told: Usage | None = None  # what the latest attempt consumed, if it has failed
        self._epoch = 0
        self._asked_at = 0.0
        self._has_content = False
        self._paused = False
        self._ended = False
        self.lost: Usage | None = None
        self.dropped: Sequence[str] = ()
        self.emulated: Sequence[str] = ()
        self.on_events = self.on_text = _ignore

    def begin(self) -> None:
        """Asks the first target, or enters its queue.

        Raises:
            DragomanError: If no target takes the request; the sink is then never called.
        """
        route = self._route
        now = route.clock()
        target = route.only
        if target is not None and target.take_place(now):  # nothing to choose, nothing to wait for
            self.target = target
            asked = self._ask(now) or self._ask_any(now)
        else:
            asked = self._ask_any(now)
        if not asked:
            self._ended = True
            raise self._attempts.error(now)
        self._announced = self.target
        route.deadlines.add(self, now)

    @property
    def _attempts(self) -> Attempts:
        """What was tried so far; made once something failed, or there is something to choose."""
        history = self._history
        if history is None:
            history = self._history = Attempts(self._route, self._prefer)
        history.count = self._count
        return history

    # Generation

    def cancel(self) -> None:
        """Stops: the attempt, the wait in a queue, or the wait for the next attempt."""
        if self._ended:
            return
        if self._current is not None:
            self._current.cancel()
            return
        self._close()
        cancelled = ProviderError("the generation was cancelled", reason=Reason.CANCELLED, retryable=False)
        asyncio.get_running_loop().call_soon(self._sink.on_end, cancelled.to_failure())

    def pause(self) -> None:
        """Asks the attempt to hold back events, or the next one if there is none now."""
        self._paused = True
        if self._current is not None:
            self._current.pause()

    def resume(self) -> None:
        """Lifts `pause`."""
        self._paused = False
        if self._current is not None:
            self._current.resume()

    @property
    def usage_so_far(self) -> Usage | None:
        """What the attempt has told of its consumption; None if nothing."""
        return self._told if self._current is None else self._current.usage_so_far

    # The sink of an attempt

    def _on_first_events(self, batch: EventBatch) -> None:
        """Takes events before there was content. Usage alone is none, and it is the last event of its batch."""
        if self._ended:
            return
        sink, first = self._sink, batch.events[0]
        if first.HasField("usage_reported"):
            self._told = first.usage_reported.last_call
        elif not self._has_content:
            self._begin_content()
        sink.on_events(batch)

    def _on_first_text(self, text: str) -> None:
        """Takes text before there was content."""
        if not self._ended:
            self._begin_content()
            self._sink.on_text(text)

    def _begin_content(self) -> None:
        """Lets what follows go straight to the sink."""
        self._has_content = True
        self.target.answered(self._epoch, self._route.clock() - self._asked_at)
        self.on_events, self.on_text = self._sink.on_events, self._sink.on_text

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        """Takes the whole answer of the attempt: that of the generation."""
        if self._ended:
            self.on_end(None)
            return
        route = self._route
        self._current = None
        self._ended = True
        self.on_events = self.on_text = _ignore
        self.target.served(self._epoch, route.clock() - self._asked_at)
        route.deadlines.discard(self)
        self._sink.on_whole(text, finish_reason, usage)

    def on_end(self, failure: Failure | None) -> None:
        """Takes the end of the attempt: that of the generation, or the beginning of the next attempt."""
        if failure is not None:
            self._told = self.usage_so_far or self._told
        self._current = None
        self.target.ended(self._epoch, failure)
        if self._ended:
            return
        if failure is None or self._has_content or failure.reason == Reason.CANCELLED:
            self._end(failure)
            return
        now = self._route.clock()
        self._attempts.failed(self.target, failure, now)
        self._go_on(now)

    # The queue of a target

    def admitted(self) -> None:
        """There is a place now. The target may have been shut off since."""
        now = self._route.clock()
        if self._ended:
            self.target.leave()
        elif self.target.free_at() > now:
            self.target.leave()
            self._attempts.skip(self.target)
            self._go_on(now)
        elif not self._ask(now):
            self._go_on(now)

    def waited_too_long(self) -> None:
        """No place became free in time."""
        self._attempts.refused(self.target, self.target.full("had no room for the request in time"))
        self._go_on(self._route.clock())

    def overdue(self) -> None:
        """The time of the whole answer is over."""
        current = self._current
        self._end(self._attempts.overdue().to_failure())
        if current is not None:
            current.cancel()

    # Asking

    def _go_on(self, now: float) -> None:
        """Asks the next target, now or later, or gives up."""
        if self._ask_any(now):
            return
        delay = self._attempts.delay(now)
        if delay is None:
            self._end(self._attempts.failure(now))
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        self._go_on(self._route.clock())

    def _ask_any(self, now: float) -> bool:
        """Asks the first target that takes the request, or enters its queue; returns whether there is one."""
        while (target := self._attempts.pick(now)) is not None:
            self.target = target
            try:
                if not target.enter(self) or self._ask(now):
                    return True
            except Unavailable as error:
                self._attempts.refused(target, error)
        return False

    def _ask(self, now: float) -> bool:
        """Asks the target, on which it has a place; returns whether the target took the request.

        The request is changed as far as the target needs it and the policy allows.
        """
        target, request, route = self.target, self._request, self._route
        spec, model, choice_index, incremental, run_id, plain = request
        asked = request
        if model != target.upstream_model:
            asked = GenerationRequest(spec, target.upstream_model, choice_index, incremental, run_id, plain)
        self.dropped = self.emulated = ()
        self.on_events, self.on_text = self._on_first_events, self._on_first_text
        try:
            start: Start = target.provider.start
            if route.tracer is not None:
                start = traced(start, route.tracer, target.provider.name, self._count + 1)
            if route.checks and (check := route.checks.get(target)) is not None:
                start = checked(start, check)
            try:
                current = start(asked, self)
            except UnsupportedFeature as refusal:
                current, self.dropped, self.emulated = start_adapted(start, asked, self, refusal, route.policy)
        except Exception as error:
            target.leave()
            if not isinstance(error, DragomanError):
                if self._announced is None:
                    raise  # to whoever starts the generation
                provider = target.provider.name
                logger.exception("a provider is at fault", run_id=request.run_id, provider=provider, exc_info=error)
                error = DragomanError(f"an internal error ended the answer ({type(error).__name__})")
            self._attempts.refused(target, error)
            return False
        self._current = current
        self._asked_at = now
        self._epoch = target.begin(now, again=self._count > 0)
        self._count += 1
        self.attempt = self._count
        if self._paused:
            current.pause()
        announced = self._announced
        self.lost, self._told = self._told, None
        if announced is not None and (self._count > 1 or target is not announced or self.dropped or self.emulated):
            self._announced = target
            self._sink.on_attempt(self)
        return True

    # The end

    def _end(self, failure: Failure | None) -> None:
        self._close()
        self._sink.on_end(failure)

    def _close(self) -> None:
        """Waits for nothing any more, and lets go of what refers to this generation."""
        self._ended = True
        self.on_events = self.on_text = _ignore
        self._route.deadlines.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._current is None:
            self.target.withdraw(self)


def _ignore(content: EventBatch | str) -> None:
    """Takes what nobody wants any more."""
