"""What a chat run does: one provider round, fanned out over its choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_server.errors import DragomanError, ProviderError
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.runs.fold import Step
from dragoman_server.runs.run import internal_failure
from dragoman_server.runs.usage import estimate, total_of_choices
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.routing.generation import RoutedGeneration
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.runs.run import LiveRun

logger = get_logger(__name__)

FIRST_STEP = "step_1"
"""Id of the only step, until tools bring more."""

FINAL_EVENTS = 3
"""How many events end a run well after those of its answer: usage_reported, step_completed, run_completed."""


class ChatWork:
    """A chat completion. `begin` starts it; from then on the providers push it along.

    Args:
        run: The run that it belongs to.
        spec: What to answer and how.
        route: Who answers.
        incremental: Whether someone reads along.

    Attributes:
        keeps_back: Whether a batch waits for the next one or the end.
        append_text: Appends a batch of nothing but text to the run's log; see `EventLog.append_text`.
    """

    def __init__(self, run: LiveRun, spec: ChatSpec, route: Route, *, incremental: bool) -> None:
        self._run = run
        self._spec = spec
        self._route = route
        self._incremental = incremental
        self._generations: list[RoutedGeneration] = []
        self._usages: dict[int, Usage] = {}
        self._pending = spec.sampling.choice_count or 1
        self._kept_back: EventBatch | None = None
        self.keeps_back = not incremental and self._pending == 1
        self.append_text = run.log.append_text

    def begin(self) -> None:
        """Starts one generation for each choice.

        Raises:
            DragomanError: If the provider refuses the request; nothing then runs, and no event was appended.
        """
        spec, route = self._spec, self._route
        count = self._pending
        try:
            for index in range(count):
                choice_spec = spec if index == 0 else _for_choice(spec, index)
                request = GenerationRequest(choice_spec, "", index, self._incremental, self._run.id)
                first = self._generations[0].target if index else None  # all choices from the same model
                self._generations.append(route.start(request, _ChoiceSink(self, index), first))
        except Exception as error:
            self._pending = 0
            self.cancel()
            if isinstance(error, DragomanError) and error.field:
                error.field = f"spec.chat.{error.field}"  # providers see no more than the chat
            raise
        announced = self._generations[0]
        self._run.log.begin(route.model_id, _step(announced))
        if count > 1:
            batch = EventBatch()
            for generation in self._generations:
                if _differs(generation, announced):
                    announced = generation
                    _step(generation).write(batch.events.add().step_started)
            if batch.events:
                self._run.append(batch)

    def cancel(self) -> None:
        """Stops all generations."""
        generations, self._generations = self._generations, []
        for generation in generations:
            generation.cancel()

    def pause(self) -> None:
        """Asks all generations to hold back events."""
        for generation in self._generations:
            generation.pause()

    def resume(self) -> None:
        """Lifts `pause`."""
        for generation in self._generations:
            generation.resume()

    def final_events(self, batch: EventBatch) -> None:
        """Adds the usage so far, once the model has said anything."""
        self._flush()
        if self._usages or self._run.log.fold.has_content:
            _report(self._usage(), batch)

    def take(self, index: int, batch: EventBatch) -> None:
        """Appends events of a choice; keeps its usage back, to report that of all choices at the end."""
        if self._pending == 0:
            return
        events = batch.events
        last = events[-1]
        if last.HasField("usage_reported"):
            self._usages[index] = last.usage_reported.last_call
            del events[-1]
            if not events:
                return
        if self.keeps_back:  # nobody reads along: the end, which follows at once, goes into the same batch
            self._flush()
            self._kept_back = batch
        else:
            self._run.append(batch)

    def attempt(self, generation: RoutedGeneration) -> None:
        """Announces another attempt of a choice."""
        if self._pending:
            batch = EventBatch()
            _step(generation).write(batch.events.add().step_started)
            self._run.append(batch)

    def end(self, index: int, failure: Failure | None) -> None:
        """Takes note that a choice has ended; the last one ends the run, and so does a failed one."""
        if self._pending == 0 or self._run.ended:
            return
        if failure is None and not self._finished(index):
            failure = ProviderError(
                f"provider {self._generations[index].target.provider.name} ended its answer without saying why",
                reason=Reason.PROVIDER_PROTOCOL,
            ).to_failure()
        if failure is not None:
            self._pending = 0
            self._run.fail(failure)
            return
        self._pending -= 1
        if self._pending == 0:
            if not self._usages:
                self._flush()  # the estimate needs it
            kept_back, self._kept_back = self._kept_back, None
            usage = self._usage()
            self._generations.clear()  # they know their sinks, which know this: no cycle is left to the collector
            if self._run.unseen:
                self._run.complete_unseen(kept_back, usage, FINAL_EVENTS)
                return
            batch = kept_back or EventBatch()
            _report(usage, batch)
            completed = batch.events.add().step_completed
            completed.step_id = FIRST_STEP
            completed.usage.CopyFrom(usage)
            self._run.complete(batch)

    def _flush(self) -> None:
        """Appends what was kept back."""
        if self._kept_back is not None:
            batch, self._kept_back = self._kept_back, None
            self._run.append(batch)

    def _finished(self, index: int) -> bool:
        if self._kept_back is not None and self._kept_back.events[-1].HasField("choice_finished"):
            return True  # kept back, so that the fold does not know of it yet
        return self._run.log.fold.finished(index)

    def crashed(self, error: Exception) -> None:
        """Ends the run because of a fault of this server."""
        logger.exception("run crashed", run_id=self._run.id, request_id=self._run.call_id, exc_info=error)
        self._pending = 0
        self._run.fail(internal_failure(error))

    def _usage(self) -> Usage:
        """Returns what the run consumed so far."""
        if len(self._usages) == 1:
            (usage,) = self._usages.values()
            return usage
        if self._usages:
            return total_of_choices(self._usages[index] for index in sorted(self._usages))
        record = Run()
        self._run.log.fold.fill(record)
        return estimate(self._spec, record)


class _ChoiceSink:
    """Receives the generation of one choice. What goes wrong here is this server's fault and ends the run.

    It forgets the work at the end: a generation may live longer, and must not keep the run alive.
    """

    __slots__ = ("_index", "_work")

    def __init__(self, work: ChatWork, index: int) -> None:
        self._work: ChatWork | None = work
        self._index = index

    def on_events(self, batch: EventBatch) -> None:
        work = self._work
        if work is not None:
            try:
                if work.keeps_back or not work.append_text(batch):
                    work.take(self._index, batch)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_attempt(self, generation: RoutedGeneration) -> None:
        work = self._work
        if work is not None:
            try:
                work.attempt(generation)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_end(self, failure: Failure | None) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                work.end(self._index, failure)
            except Exception as error:  # a sink never raises
                work.crashed(error)


def _report(usage: Usage, batch: EventBatch) -> None:
    reported = batch.events.add().usage_reported
    reported.last_call.CopyFrom(usage)
    reported.run_total.CopyFrom(usage)


def _step(generation: RoutedGeneration) -> Step:
    """Returns who is asked, and how the request differs from what was asked for."""
    target = generation.target
    return Step(
        FIRST_STEP,
        target.provider.name,
        target.upstream_model,
        generation.attempt,
        generation.dropped,
        generation.emulated,
    )


def _differs(one: RoutedGeneration, other: RoutedGeneration) -> bool:
    """Whether two choices are asked for in different ways."""
    return (one.target, one.dropped, one.emulated) != (other.target, other.dropped, other.emulated)


def _for_choice(spec: ChatSpec, index: int) -> ChatSpec:
    """Returns the spec of a further choice: with a seed of its own, lest all choices be the same."""
    if not spec.sampling.HasField("seed"):
        return spec
    varied = ChatSpec()
    varied.CopyFrom(spec)
    varied.sampling.seed += index
    return varied
