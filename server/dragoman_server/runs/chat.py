"""What a chat run does: one provider round, fanned out over its choices."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_LENGTH, RunCompleted
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import DragomanError, ProviderError
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.usage import sum_of_calls
from dragoman_server.providers.wire import sole_text, text_batch, whole_batch
from dragoman_server.runs.fold import Step
from dragoman_server.runs.metering import Meter
from dragoman_server.runs.run import internal_failure
from dragoman_server.runs.usage import estimate, total_of_choices
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import FinishReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Charge
    from dragoman_server.credits.service import Hold
    from dragoman_server.providers.base import PlainChat
    from dragoman_server.providers.routing.generation import RoutedGeneration
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.runs.admission import Admission
    from dragoman_server.runs.run import LiveRun

logger = get_logger(__name__)

FIRST_STEP = "step_1"
"""Id of the only step, until tools bring more."""

FINAL_EVENTS = 3
"""How many events end a run well after those of its answer: usage_reported, step_completed, run_completed."""


_Whole = tuple[str, "FinishReason", bytes]
"""A whole answer: its text, why it ended, and the wire form of its usage."""


class ChatWork:
    """A chat completion. `begin` starts it; from then on the providers push it along.

    Args:
        run: The run that it belongs to.
        spec: What to answer and how.
        route: Who answers.
        incremental: Whether someone reads along.
        plain: What the spec says, if it is plain and was read already.

    Attributes:
        keeps_back: Whether a batch waits for the next one or the end.
        append_text: Appends text of the first choice to the run's log; see `EventLog.append_text`.
    """

    def __init__(
        self, run: LiveRun, spec: ChatSpec, route: Route, *, incremental: bool, plain: PlainChat | None = None
    ) -> None:
        self._run = run
        self._spec = spec
        self._plain = plain
        self._route = route
        self._incremental = incremental
        self._generations: list[RoutedGeneration] = []
        self._usages: dict[int, Usage] = {}
        self._lost: Usage | None = None  # what attempts that came to nothing have consumed
        self._pending = spec.sampling.choice_count or 1
        self._kept_back: EventBatch | None = None
        self._whole: _Whole | None = None  # an answer that is not paid for yet
        self.keeps_back = not incremental and self._pending == 1
        self.append_text: Callable[[str], None] = run.log.append_text
        self._meter: Meter | None = None
        self._bound: Hold | None = None  # what the answer must stay within, while it grows
        hold = None if run.admission is None else run.admission.hold
        if hold is not None and hold.output_tokens:
            self._bound = hold
            self.append_text = self._append_metered

    def begin(self) -> None:
        """Starts one generation for each choice.

        Raises:
            DragomanError: If the provider refuses the request; nothing then runs, and no event was appended.
        """
        spec, route = self._spec, self._route
        count = self._pending
        model = "" if route.only is None else route.only.upstream_model
        try:
            for index in range(count):
                choice_spec = spec if index == 0 else _for_choice(spec, index)
                request = GenerationRequest(choice_spec, model, index, self._incremental, self._run.id, self._plain)
                first = self._generations[0].target if index else None  # all choices from the same model
                self._generations.append(route.start(request, _ChoiceSink(self, index), first))
        except Exception as error:
            self._pending = 0
            self.cancel()
            if isinstance(error, DragomanError) and error.field:
                error.field = f"spec.chat.{error.field}"  # providers see no more than the chat
            raise
        announced = self._generations[0]
        admission = self._run.admission
        rate_state = None if admission is None else admission.rate_state
        self._run.log.begin(route.model_id, _step(announced), rate_state)
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
        self._stop_counting()
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
        """Adds the usage so far, once the model has said anything or the provider has told it."""
        self._flush()
        for index, generation in enumerate(self._generations):
            if index not in self._usages and (told := generation.usage_so_far) is not None:
                self._usages[index] = told
        began = bool(self._usages) or self._run.log.fold.has_content
        if began or self._lost is not None:
            _report(self._estimate() if began else Usage(), self._lost, batch)

    def take(self, index: int, batch: EventBatch) -> None:
        """Appends events of a choice; keeps its usage back, to report that of all choices at the end."""
        if self._pending == 0:
            return
        events = batch.events
        last = events[-1]
        reported = last.HasField("usage_reported")
        if reported:
            self._usages[index] = last.usage_reported.last_call
            del events[-1]
            if not events:
                return
        if self.keeps_back:  # nobody reads along: the end, which follows at once, goes into the same batch
            self._flush()
            self._kept_back = batch
        else:
            self._run.append(batch)
        if self._bound is not None and not reported and not last.HasField("choice_finished"):  # else it is the end
            self._metered(self._bound).count(batch)

    def take_whole(self, index: int, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        """Takes the whole answer of a choice: as the end of the run, if that is all there is to it."""
        admission = self._run.admission
        if self.keeps_back and usage is not None:
            if admission is not None and (admission.hold is not None or admission.turn is not None):
                if admission.turn is None and self._lost is None and self._pending and not self._run.log.closed:
                    self._charge_whole(admission, (text, finish_reason, usage))
                    return
            elif self._run.complete_whole(text, finish_reason, usage):
                self._pending = 0
                self._generations.clear()  # they know their sinks, which know this: no cycle is left to the collector
                return
        self.take(index, whole_batch(text, finish_reason, usage))
        self.end(index, None)

    def _charge_whole(self, admission: Admission, whole: _Whole) -> None:
        """Ends the run with a whole answer once that is paid for."""
        self._pending = 0
        self._generations.clear()  # as above
        self._stop_counting()
        self._whole = whole
        usage = self._usages[0] = Usage.FromString(whole[2])
        hold = admission.hold
        charge = None if hold is None else hold.pay(usage)
        if charge is not None and self._run.complete_whole(*whole, charge.SerializeToString()):
            return

        def charged(charge: Charge | BaseException) -> None:
            if self._run.ended:
                return
            if isinstance(charge, BaseException):
                logger.error("a run could not be charged", run_id=self._run.id, error=str(charge))
                self._fail(charge)
                return
            try:
                if not self._run.complete_whole(*whole, charge.SerializeToString()):
                    self._unfold()
                    self._complete(usage, RunCompleted(charge=charge))
            except Exception as error:  # the ledger calls this, and could not tell anybody
                self.crashed(error)

        admission.charge(usage, charged)

    def _unfold(self) -> None:
        """Makes the events of a whole answer that is not ended yet."""
        if self._whole is not None:
            batch, self._whole = whole_batch(*self._whole), None
            del batch.events[-1]  # the usage, which is reported at the end
            self._kept_back = batch

    def _append_metered(self, text: str) -> None:
        """Does what `append_text` says, and counts."""
        self._run.log.append_text(text)
        if self._bound is not None:
            self._metered(self._bound).count_text(text)

    def _metered(self, bound: Hold) -> Meter:
        """Returns the meter, which is made when something is said: whole answers need none."""
        if self._meter is None:
            grows = not self._spec.sampling.max_output_tokens
            self._meter = Meter(bound, self._spec.sampling.choice_count or 1, self._stop_at_limit, grows=grows)
        return self._meter

    def _stop_counting(self) -> None:
        if self._bound is not None:
            self._bound = None
            self.append_text = self._run.log.append_text  # a method of its own would keep it alive
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    def _stop_at_limit(self) -> None:
        """Ends the answer where it is: what is reserved for it is used up, and there is no more to be had."""
        if self._pending == 0 or self._run.ended:
            return
        self._flush()
        batch = EventBatch()
        for index in range(len(self._generations)):
            if not self._run.log.fold.finished(index):
                finished = batch.events.add().choice_finished
                finished.choice_index = index
                finished.finish_reason = FINISH_REASON_LENGTH
        for index, generation in enumerate(self._generations):
            if index not in self._usages and (told := generation.usage_so_far) is not None:
                self._usages[index] = told
        self._pending = 0
        self.cancel()
        self.append_text = _ignore  # more may come before the providers have stopped
        if batch.events:
            self._run.append(batch)
        self._finish(self._estimate())

    def attempt(self, index: int, generation: RoutedGeneration) -> None:
        """Announces another attempt of a choice. What the one before has consumed counts beside all that follows."""
        if self._pending:
            self._usages.pop(index, None)
            if generation.lost is not None:
                self._lost = sum_of_calls(generation.lost, self._lost)
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
            if len(self._usages) < len(self._generations):
                self._flush()  # the estimate needs it
            usage = self._usage()
            self._generations.clear()  # they know their sinks, which know this: no cycle is left to the collector
            self._finish(usage)

    def _finish(self, usage: Usage) -> None:
        """Ends the run well, once whatever has to be settled before is settled."""
        self._stop_counting()
        admission = self._run.admission
        if admission is None or not admission.settles:
            self._complete(usage)
        else:
            self._settle(admission, usage)

    def _settle(self, admission: Admission, usage: Usage) -> None:
        """Completes the run once its turn and its charge are on disk."""
        total = usage if self._lost is None else sum_of_calls(self._lost, usage)
        record = None
        if admission.turn is not None:
            self._flush()
            record = Run(id=self._run.id)
            self._run.log.fold.fill(record)
            record.state = Run.STATE_COMPLETED
            record.usage.CopyFrom(total)

        def settled(outcome: RunCompleted, error: BaseException | None) -> None:
            if self._run.ended:
                return
            if error is None:
                self._complete(usage, outcome)
            else:
                self._fail(error)

        admission.settle(total, record, settled)

    def _fail(self, error: BaseException) -> None:
        """Ends the run because it could not be settled."""
        self._run.fail(error.to_failure() if isinstance(error, DragomanError) else internal_failure(error))

    def _complete(self, usage: Usage, outcome: RunCompleted | None = None) -> None:
        """Ends the run well; `outcome` is what its last event tells, if anything."""
        kept_back, self._kept_back = self._kept_back, None
        if self._run.unseen and self._lost is None:
            self._run.complete_unseen(kept_back, usage, FINAL_EVENTS, outcome)
            return
        batch = kept_back or EventBatch()
        total = _report(usage, self._lost, batch)
        completed = batch.events.add().step_completed
        completed.step_id = FIRST_STEP
        completed.usage.CopyFrom(total)
        self._run.complete(batch, outcome)

    def _flush(self) -> None:
        """Appends what was kept back."""
        self._unfold()
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
        """Returns what the run consumed, now that it is complete."""
        usages = self._usages
        if len(usages) < len(self._generations):
            return self._estimate()
        return usages[0] if len(usages) == 1 else total_of_choices(usages[index] for index in sorted(usages))

    def _estimate(self) -> Usage:
        """Returns what the run consumed so far: what is known, and a guess of the rest."""
        record = Run()
        self._run.log.fold.fill(record)
        return estimate(self._spec, record, self._usages)


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
                if not work.keeps_back and (text := sole_text(batch)):
                    work.append_text(text)
                else:
                    work.take(self._index, batch)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_text(self, text: str) -> None:
        work = self._work
        if work is not None:
            try:
                if work.keeps_back:
                    work.take(self._index, text_batch(text))
                else:
                    work.append_text(text)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                work.take_whole(self._index, text, finish_reason, usage)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_attempt(self, generation: RoutedGeneration) -> None:
        work = self._work
        if work is not None:
            try:
                work.attempt(self._index, generation)
            except Exception as error:  # a sink never raises
                work.crashed(error)

    def on_end(self, failure: Failure | None) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                work.end(self._index, failure)
            except Exception as error:  # a sink never raises
                work.crashed(error)


def _ignore(_text: str) -> None:
    """Takes what comes after the answer was stopped."""


def _report(usage: Usage, lost: Usage | None, batch: EventBatch) -> Usage:
    """Adds the usage to a batch, and returns that of the whole run: with what was lost."""
    total = sum_of_calls(usage, lost)
    reported = batch.events.add().usage_reported
    reported.last_call.CopyFrom(usage)
    reported.run_total.CopyFrom(total)
    return total


def _step(generation: RoutedGeneration) -> Step:
    """Returns who is asked, and how the request differs from what was asked for."""
    target, attempt, dropped, emulated = generation.target, generation.attempt, generation.dropped, generation.emulated
    provider, model = target.provider.name, target.upstream_model
    if attempt == 1 and not dropped and not emulated:
        return _first_step(provider, model)
    return Step(FIRST_STEP, provider, model, attempt, dropped, emulated)


@lru_cache(maxsize=1024)  # clients may ask for any model
def _first_step(provider: str, model: str) -> Step:
    return Step(FIRST_STEP, provider, model, 1, (), ())


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
