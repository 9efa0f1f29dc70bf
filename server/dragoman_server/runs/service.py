"""The run engine's door: starts, finds, lists and cancels runs."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.run_pb2 import (
    DISCONNECT_POLICY_CANCEL,
    DISCONNECT_POLICY_DETACH_FOR,
    DISCONNECT_POLICY_UNSPECIFIED,
    DisconnectPolicy,
)
from dragoman_server.errors import IdempotencyConflict, InvalidRequest, NotFound, Unavailable
from dragoman_server.ids import new_id
from dragoman_server.runs.admission import Domains, Gate, note_usage
from dragoman_server.runs.chat import ChatWork
from dragoman_server.runs.finished import sees
from dragoman_server.runs.images import check_images
from dragoman_server.runs.retention import Budget, Retention
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.validation import check_request
from dragoman_server.settings import VisionSettings
from dragoman_server.telemetry.logs import get_logger
from dragoman_server.usage.service import tokens_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.v1.run_pb2 import ChatSpec, RunSpec
    from dragoman.v1.usage_pb2 import Charge
    from dragoman_server.caller import Caller
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.clock import Clock
    from dragoman_server.providers.base import PlainChat
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.runs.admission import Admission
    from dragoman_server.runs.finished import KeptRun
    from dragoman_server.runs.validation import Findings
    from dragoman_server.settings import LimitSettings, RunSettings
    from dragoman_server.telemetry.metrics import CoreMetrics
    from dragoman_server.telemetry.tracing import Tracer

logger = get_logger(__name__)

SWEEP_SECONDS = 1.0

_RequestKey = tuple[str, str, str, str]
"""Under which a request id is known: the account, the user in it, the method, and the id."""


class StartOptions(NamedTuple):
    """How a call starts a run.

    Attributes:
        method: Name of the RPC; request ids are scoped by it.
        request_id: The idempotency key, or empty.
        default_policy: The disconnect policy if neither the spec nor a request id says.
        incremental: Whether the caller reads along.
        time_remaining: Seconds until the call's deadline, or None.
        call_id: The caller's name of the call, for the log.
        size: Bytes of the request; 0 if that is not known.
    """

    method: str
    request_id: str = ""
    default_policy: DisconnectPolicy = DISCONNECT_POLICY_CANCEL
    incremental: bool = True
    time_remaining: float | None = None
    call_id: str = ""
    size: int = 0


class Runs:
    """All runs of a server.

    Args:
        settings: How runs are kept.
        limits: How many there may be.
        catalog: Who answers for a model.
        clock: The time, for records.
        metrics: Counts the runs.
        tracer: Traces them, if anyone does.
        vision: What images a request may carry; as by default if not given.
        domains: Who else has a say in runs.
    """

    def __init__(
        self,
        settings: RunSettings,
        limits: LimitSettings,
        catalog: Catalog,
        clock: Clock,
        metrics: CoreMetrics | None = None,
        tracer: Tracer | None = None,
        vision: VisionSettings | None = None,
        domains: Domains | None = None,
    ) -> None:
        self._settings = settings
        self._vision = vision or VisionSettings()
        self._limits = limits
        self._catalog = catalog
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._budget = Budget(settings.total_bytes)
        self._kept = Retention(self._budget, settings.retention, self._free_request_id)
        self._domains = domains or Domains()
        self._gate = Gate(catalog, self._domains)
        self._by_request: dict[_RequestKey, LiveRun] = {}
        self._being_admitted: dict[_RequestKey, asyncio.Event] = {}
        self._draining = False
        self._idle: asyncio.Event | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def active(self) -> int:
        """Number of runs that go on."""
        return self._kept.active

    @property
    def kept_bytes(self) -> int:
        """What all kept runs take together, in bytes."""
        return self._budget.used

    async def submit(self, caller: Caller, spec: RunSpec, options: StartOptions) -> LiveRun:
        """Starts a run once it is admitted, or returns the one that the same request id started before.

        It waits for nothing unless limits, credits, a persona or a conversation have a say.

        Raises:
            InvalidRequest: If the spec breaks a rule.
            NotFound: If there is no such model or conversation.
            Forbidden: If the caller may not ask for the model.
            RateLimited: If the caller asks for too much.
            InsufficientCredits: If the balance does not buy the work.
            IdempotencyConflict: If the request id was used with another spec.
            Unavailable: If there is no room for the run, the model is not ready, or the server shuts down.
        """
        begun = self.begin(caller, spec, options)
        return begun if isinstance(begun, LiveRun) else await begun()

    def begin(self, caller: Caller, spec: RunSpec, options: StartOptions) -> LiveRun | Callable[[], Awaitable[LiveRun]]:
        """Does what `submit` does: returns the run if it waits for nothing, else a function that waits for it.

        Raises:
            DragomanError: As `submit` does, at once or when that function is awaited.
        """
        findings = check_request(spec, options.request_id, options.size)
        if not self._gate.concerns(caller, spec.chat, plain=findings.chat is not None):
            return self.start(caller, spec, options, findings=findings)
        if findings.chat is not None and not options.incremental and not options.request_id:
            run_id = new_id("run")
            admission = self._gate.admit_at_once(caller, findings.chat, run_id)
            if admission is not None:
                return self._start_admitted(caller, spec, options, run_id, admission, findings)
        return partial(self._admit, caller, spec, options, findings)

    async def _admit(self, caller: Caller, spec: RunSpec, options: StartOptions, findings: Findings) -> LiveRun:
        """Starts a run once it is admitted, or returns the one that the same request id started before."""
        asked = asyncio.get_running_loop().time()
        key = _key_of(caller, options) if options.request_id else None
        while key is not None and key not in self._by_request and key in self._being_admitted:
            await self._being_admitted[key].wait()  # the same request, a moment before
        if key is not None:
            if (known := self._by_request.get(key)) is not None:
                return _same(known, _fingerprint(spec), options.request_id)
            self._being_admitted[key] = asyncio.Event()
        try:
            self._check_room()
            run_id = new_id("run")
            incremental = options.incremental or key is not None
            admission = await self._gate.admit(
                caller, spec.chat, run_id, incremental=incremental, has_media=findings.has_media
            )
            if options.time_remaining is not None:
                waited = asyncio.get_running_loop().time() - asked
                options = options._replace(time_remaining=max(0.0, options.time_remaining - waited))
            return self._start_admitted(caller, spec, options, run_id, admission, findings)
        finally:
            if key is not None:
                self._being_admitted.pop(key).set()

    def _start_admitted(
        self,
        caller: Caller,
        spec: RunSpec,
        options: StartOptions,
        run_id: str,
        admission: Admission,
        findings: Findings,
    ) -> LiveRun:
        """Starts a run, or gives back what it was given."""
        try:
            return self.start(caller, spec, options, run_id, admission, findings)
        except BaseException:
            admission.withdraw()
            raise

    def start(
        self,
        caller: Caller,
        spec: RunSpec,
        options: StartOptions,
        run_id: str = "",
        admission: Admission | None = None,
        findings: Findings | None = None,
    ) -> LiveRun:
        """Does what `submit` says, for a request that is admitted, or that nobody has a say in.

        Args:
            caller: Whose run it is.
            spec: What is to be executed.
            options: How the call starts it.
            run_id: Its id, if it has one already.
            admission: What the request was given.
            findings: What was seen of it, if it was checked already.
        """
        bare, has_media, plain = findings or check_request(spec, options.request_id, options.size)
        key, fingerprint = None, b""
        if options.request_id:
            key, fingerprint = _key_of(caller, options), _fingerprint(spec)
            if (known := self._by_request.get(key)) is not None:
                return _same(known, fingerprint, options.request_id)
        self._check_room()
        route, chat = self._settled(spec.chat, caller, plain, admission)
        if has_media or (admission is not None and admission.turn is not None):
            check_images(chat.messages, self._vision, remote=self._catalog.takes_addresses(route))
        if bare and key is None:
            policy, detach_ttl = options.default_policy, 0.0
        else:
            policy, detach_ttl = self._policy(spec, options)
        run = LiveRun(
            run_id or new_id("run"),
            caller,
            self._settings,
            self._budget,
            policy=policy,
            detach_ttl=detach_ttl,
            create_micros=int(self._clock() * 1_000_000),
            labels={} if bare else spec.labels,
            on_end=self._ended,
            on_settled=self._kept.reduce,
        )
        run.idempotency_key, run.fingerprint, run.call_id = key, fingerprint, options.call_id
        run.admission = admission
        work = ChatWork(run, chat, route, incremental=options.incremental or key is not None, plain=plain)
        run.begin(work, None if bare and options.time_remaining is None else self._deadline(spec, options))
        if self._metrics is not None and options.incremental:
            run.log.meter = self._metrics.stream_meter(run.create_micros * 1000)
        if self._tracer is not None:
            self._tracer.run_started(run.id, chat, streams=options.incremental)
        try:
            work.begin()
        except BaseException as error:
            run.abandon()
            if self._tracer is not None:
                self._tracer.run_refused(run.id, error)
            raise
        self._kept.add(run)
        if key is not None:
            self._by_request[key] = run
        if options.default_policy != DISCONNECT_POLICY_CANCEL:
            run.left_alone()  # nobody waits for a run that was only started
        if self._sweeper is None:
            self._sweep_later()
        return run

    def get(self, caller: Caller, run_id: str) -> KeptRun:
        """Returns a kept run that the caller sees.

        Raises:
            NotFound: If there is none (RUN_NOT_FOUND).
        """
        run = self._kept.get(run_id)
        if run is None or not sees(caller, run.owner):
            raise NotFound(
                f"the run `{run_id}` does not exist or is no longer kept",
                reason=Reason.RUN_NOT_FOUND,
                field="run_id",
                metadata={"run_id": run_id},
            )
        return run

    def list(self, caller: Caller, limit: int, before_id: str = "") -> list[KeptRun]:
        """Returns kept runs that the caller sees, newest first: at most `limit`, older than a given one."""
        found: list[KeptRun] = []
        for run in self._kept.newest_first():
            if sees(caller, run.owner) and (not before_id or run.id < before_id):
                found.append(run)
                if len(found) == limit:
                    break
        return found

    async def drain(self, timeout: float) -> None:
        """Takes no new runs, waits up to `timeout` seconds for the others to end, then cancels what is left."""
        self._draining = True
        if self.active:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                logger.warning("cancelling runs that did not end in time", runs=self.active)
        for run in self._kept.active_runs():
            run.cancel(CancelReason.CANCEL_REASON_SHUTDOWN)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _settled(
        self, spec: ChatSpec, caller: Caller, plain: PlainChat | None, admission: Admission | None
    ) -> tuple[Route, ChatSpec]:
        """Returns who answers, and the request as the model's rules settle it."""
        if admission is not None:
            return admission.route, admission.chat
        catalog = self._catalog
        if plain is not None and (route := catalog.route_of_plain(plain.model, caller.grants)) is not None:
            return route, spec
        route = catalog.route(spec, caller.grants)
        return route, catalog.settle(route, spec)

    def _check_room(self) -> None:
        if self._draining:
            raise Unavailable("the server is shutting down; try again", reason=Reason.SHUTTING_DOWN, retry_after=1)
        if not self._kept.has_room(self._limits.max_active_runs):
            raise Unavailable("the server has as many runs as it can take; try again", retry_after=1)

    def _policy(self, spec: RunSpec, options: StartOptions) -> tuple[DisconnectPolicy, float]:
        """Returns the disconnect policy and how long DETACH_FOR lasts, in seconds."""
        policy = spec.disconnect_policy
        if policy == DISCONNECT_POLICY_CANCEL and options.default_policy != policy:
            raise InvalidRequest(
                f"`spec.disconnect_policy` CANCEL makes no sense with {options.method}: nobody waits for the run",
                field="spec.disconnect_policy",
            )
        if policy == DISCONNECT_POLICY_UNSPECIFIED:
            policy = options.default_policy
            if options.request_id and policy == DISCONNECT_POLICY_CANCEL:
                return DISCONNECT_POLICY_DETACH_FOR, self._settings.detach_ttl
        return policy, spec.detach_ttl.ToNanoseconds() / 1e9 if spec.HasField("detach_ttl") else 0.0

    def _deadline(self, spec: RunSpec, options: StartOptions) -> float | None:
        """Returns the loop time at which the run must be over, if any."""
        seconds = options.time_remaining
        if spec.HasField("timeout"):
            own = spec.timeout.ToNanoseconds() / 1e9
            seconds = own if seconds is None else min(own, seconds)
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    def _ended(self, run: LiveRun) -> None:
        """Takes note of a run that has ended. Whatever goes wrong with that: those who wait for the run are told."""
        self._kept.finish(run, asyncio.get_running_loop().time())
        if run.idempotency_key is not None and run.failed_unseen:
            self._free_request_id(run)
        if self._idle is not None and not self.active:
            self._idle.set()
        try:
            outcome, usage = run.outcome, self._domains.usage
            tokens = tokens_of(outcome.usage)
            nanos = max(0, outcome.end_nanos - run.create_micros * 1000)  # the clock may have been set back meanwhile
            if run.admission is not None:
                note = _nothing if usage is None else partial(note_usage, usage, run, nanos, tokens)
                run.admission.close(run.record(), note)
            elif usage is not None:
                note_usage(usage, run, nanos, tokens, None)
            if self._metrics is not None:
                self._metrics.run_ended(outcome, nanos, tokens)
            if self._tracer is not None:
                self._tracer.run_ended(run.record())
        except Exception:
            logger.exception("a run could not be accounted for", run_id=run.id)

    def _free_request_id(self, run: LiveRun) -> None:
        key = run.idempotency_key
        if key is not None and self._by_request.get(key) is run:
            del self._by_request[key]

    def _sweep_later(self) -> None:
        """Makes sure that finished runs are swept: a timer runs while there are any runs."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        self._kept.sweep(asyncio.get_running_loop().time())
        if self._kept:
            self._sweep_later()


def _nothing(charge: Charge | None) -> None:
    """Takes no note of a charge."""


def _key_of(caller: Caller, options: StartOptions) -> _RequestKey:
    return caller.account_id, caller.user_id, options.method, options.request_id


def _fingerprint(spec: RunSpec) -> bytes:
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()


def _same(run: LiveRun, fingerprint: bytes, request_id: str) -> LiveRun:
    if run.fingerprint != fingerprint:
        raise IdempotencyConflict(
            f"the request id `{request_id}` was used with another request; use a new one",
            field="request_id",
            metadata={"run_id": run.id},
        )
    return run
