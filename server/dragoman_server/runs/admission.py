"""What a request passes before it becomes a run, and what is settled when the run ends.

Limits come first, then the conversation and the persona complete the request, then the model's rules settle it, and
last the credits for it are reserved. What was taken is given back if the run never begins. A run that ends well is
settled before its end is shown, so that what was acknowledged outlives the process; any other right after its end.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman.v1.event_pb2 import RunCompleted
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_server.credits.service import Rule, rule_of
from dragoman_server.errors import Forbidden, Unimplemented
from dragoman_server.runs.usage import plain_prompt_tokens, prompt_tokens
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragoman.v1.usage_pb2 import Charge, RateState, Usage
    from dragoman_server.caller import Caller
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.conversations.service import Conversations, Turn
    from dragoman_server.credits.service import Credits, Hold
    from dragoman_server.personas.service import Personas
    from dragoman_server.providers.base import PlainChat
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.ratelimits.service import RateLimits, Slot
    from dragoman_server.runs.run import LiveRun
    from dragoman_server.usage.service import Tokens, UsageLog

    Then = Callable[[RunCompleted, BaseException | None], None]

logger = get_logger(__name__)

OPERATION = "chat"
"""What a chat run is called in prices and usage records."""

STEP = "step_1"
"""The step that pays, until tools bring more of them."""


@dataclass(frozen=True, slots=True)
class Domains:
    """Who has a say in runs beside the catalogue. Whoever is absent has none."""

    limits: RateLimits | None = None
    personas: Personas | None = None
    conversations: Conversations | None = None
    credits: Credits | None = None
    usage: UsageLog | None = None


class Admission:
    """What one request was given before it became a run.

    Attributes:
        chat: What is to be executed.
        route: Who answers.
        slot: The run's place within the caller's limits.
        turn: The turn of a conversation that it is.
        hold: The credits that are reserved for it.
    """

    __slots__ = ("chat", "hold", "route", "slot", "turn")

    def __init__(self) -> None:
        self.chat: ChatSpec
        self.route: Route
        self.slot: Slot | None = None
        self.turn: Turn | None = None
        self.hold: Hold | None = None

    @property
    def rate_state(self) -> RateState | None:
        """What is left of the caller's limits."""
        return None if self.slot is None else self.slot.state

    @property
    def settles(self) -> bool:
        """Whether the end of the run has to wait until something is on disk."""
        return self.hold is not None or self.turn is not None

    def withdraw(self) -> None:
        """Gives everything back: the run never began."""
        if self.slot is not None:
            self.slot.end(0)
        if self.hold is not None:
            self.hold.settle_then(None, Rule.REFUSED, _log_failure)

    def charge(self, usage: Usage, then: Callable[[Charge | BaseException], None]) -> None:
        """Charges a run that is about to end well, which is all that `settle` does where there is no turn.

        Args:
            usage: What it consumed.
            then: Called once, perhaps within this call, with the charge or an error.
        """
        assert self.hold is not None
        self.hold.settle_then(usage, Rule.COMPLETED, then)

    def settle(self, usage: Usage, record: Run | None, then: Then) -> None:
        """Settles a run that is about to end well, and calls `then` with what its last event tells, or with an error.

        Args:
            usage: What it consumed.
            record: The run as it will be; needed if there is a turn.
            then: Called once, perhaps within this call.
        """
        outcome = RunCompleted()
        failure: BaseException | None = None
        waiting = 2

        def settled(error: BaseException | None) -> None:
            nonlocal failure, waiting
            failure = failure or error
            waiting -= 1
            if not waiting:
                then(outcome, failure)

        def charged(charge: Charge | BaseException) -> None:
            _log_failure(charge)
            if isinstance(charge, BaseException):
                settled(charge)
            else:
                outcome.charge.CopyFrom(charge)
                settled(None)

        def kept(closing: asyncio.Future[list[str]]) -> None:
            error = _error_of(closing)
            if error is None and self.turn is not None:
                outcome.conversation_id = self.turn.conversation_id
                outcome.message_ids.extend(closing.result())
            settled(error)

        if self.turn is None or record is None:
            settled(None)
        else:
            self.turn.close(record).add_done_callback(kept)
        if self.hold is None:
            settled(None)
        else:
            self.hold.settle_then(usage, Rule.COMPLETED, charged)

    def close(self, record: Run, then: Callable[[Charge | None], None]) -> None:
        """Settles whatever is not settled yet, now that the run has ended.

        Args:
            record: The run.
            then: Called once with what was charged: now, if that is known.
        """
        if self.slot is not None:
            self.slot.end(record.usage.input_tokens + record.usage.output_tokens)
        if self.turn is not None:
            _watch_over(self.turn.close(record))
        if self.hold is None:
            then(None)
        elif record.state == Run.STATE_COMPLETED:
            then(record.charge)
        else:

            def charged(charge: Charge | BaseException) -> None:
                _log_failure(charge)
                then(None if isinstance(charge, BaseException) else charge)

            self.hold.settle_then(record.usage if record.HasField("usage") else None, rule_of(record), charged)


class Gate:
    """Admits requests.

    Args:
        catalog: The models.
        domains: Who else has a say.
    """

    def __init__(self, catalog: Catalog, domains: Domains) -> None:
        self._catalog = catalog
        self._domains = domains
        self._limits = domains.limits
        self._charges = domains.credits is not None and domains.credits.enabled

    def concerns(self, caller: Caller, chat: ChatSpec, *, plain: bool) -> bool:
        """Returns whether a request has to pass at all.

        Args:
            caller: Who asks.
            chat: What is to be executed.
            plain: Whether it is known to be a plain conversation.
        """
        if self._charges or (self._limits is not None and self._limits.concerns(caller)):
            return True
        return not plain and bool(chat.conversation_id or chat.persona or chat.context)

    async def admit(
        self, caller: Caller, chat: ChatSpec, run_id: str, *, incremental: bool, has_media: bool
    ) -> Admission:
        """Returns what the request is given.

        Args:
            caller: Who asks.
            chat: What is to be executed.
            run_id: The id of the run that it is to become.
            incremental: Whether the answer comes piece by piece, so that more can be reserved while it grows.
            has_media: Whether there may be more than text in it.

        Raises:
            RateLimited: If the caller asks for too much.
            InsufficientCredits: If the balance does not buy the work.
            NotFound: If the model or the conversation does not exist.
            InvalidRequest: If a value is out of the model's range, or the persona or the token type does not exist.
        """
        admission = Admission()
        domains = self._domains
        try:
            if domains.limits is not None and domains.limits.concerns(caller):
                slot = domains.limits.admit(caller)
                admission.slot = await slot if inspect.isawaitable(slot) else slot
            if chat.conversation_id or chat.context or chat.persona:
                chat = await self._complete(admission, caller, chat)
            admission.route = self._catalog.route(chat, caller.grants)
            admission.chat = self._catalog.settle(admission.route, chat)
            if domains.credits is not None and domains.credits.enabled:
                tokens = prompt_tokens(admission.chat, has_media=has_media or admission.turn is not None)
                await self._reserve(domains.credits, admission, caller, run_id, tokens, incremental=incremental)
        except BaseException:
            admission.withdraw()
            raise
        return admission

    def admit_at_once(self, caller: Caller, plain: PlainChat, run_id: str) -> Admission | None:
        """Does what `admit` does for a plain conversation whose answer comes whole, if there is nothing to wait for.

        Args:
            caller: Who asks.
            plain: What is to be executed.
            run_id: The id of the run that it is to become.

        Returns:
            None if there may be.
        """
        credits = self._domains.credits
        if credits is None or not self._charges or (self._limits is not None and self._limits.concerns(caller)):
            return None
        route = self._catalog.route_of_plain(plain.model, caller.grants)
        if route is None:
            return None
        chat = plain.spec
        sampling = chat.sampling
        asked = sampling.max_output_tokens or self._catalog.output_limit(route)
        tokens, choices = plain_prompt_tokens(plain), sampling.choice_count or 1
        hold = credits.hold_ahead(caller, run_id, STEP, OPERATION, route.model_id, "", tokens, asked, choices)
        if hold is None:
            return None
        admission = Admission()
        admission.route, admission.hold = route, hold
        fits = hold.output_tokens == sampling.max_output_tokens
        admission.chat = chat if fits else _limited(chat, hold, incremental=False)
        return admission

    async def _complete(self, admission: Admission, caller: Caller, chat: ChatSpec) -> ChatSpec:
        """Returns the request with what its conversation and its persona add to it."""
        domains = self._domains
        if chat.conversation_id or chat.context:
            if domains.conversations is None:
                raise Unimplemented("this server keeps no conversations", field="spec.chat.conversation_id")
            if chat.conversation_id:
                _check_scope(caller)
            turn = await domains.conversations.open_turn(caller, chat)
            chat = turn.chat
            if turn.conversation_id:
                admission.turn = turn
        if chat.persona:  # after the turn: a conversation may name one, and its instructions are not stored
            if domains.personas is None:
                raise Unimplemented("this server keeps no personas", field="spec.chat.persona")
            chat = await domains.personas.apply(caller, chat)
        return chat

    async def _reserve(
        self,
        credits: Credits,
        admission: Admission,
        caller: Caller,
        run_id: str,
        input_tokens: int,
        *,
        incremental: bool,
    ) -> None:
        chat = admission.chat
        sampling = chat.sampling
        hold = await credits.hold(
            caller,
            run_id=run_id,
            step_id=STEP,
            operation=OPERATION,
            model=admission.route.model_id,
            token_type=chat.token_type,
            input_tokens=input_tokens,
            output_tokens=sampling.max_output_tokens or self._catalog.output_limit(admission.route),
            choices=sampling.choice_count or 1,
            brief=not incremental,
        )
        admission.hold = hold
        if hold is not None:
            admission.chat = _limited(chat, hold, incremental=incremental)


def _limited(chat: ChatSpec, hold: Hold, *, incremental: bool) -> ChatSpec:
    """Returns a request with the output limit that was reserved for, unless more is reserved while the answer grows."""
    limit = hold.output_tokens
    if not limit or limit == chat.sampling.max_output_tokens or (incremental and not hold.lowered):
        return chat
    limited = ChatSpec()
    limited.CopyFrom(chat)
    limited.sampling.max_output_tokens = limit
    return limited


def _check_scope(caller: Caller) -> None:
    """Refuses turns of conversations to credentials that may run, but may not touch what is stored.

    Raises:
        Forbidden: If the credential does not have the scope.
    """
    scopes = caller.grants.scopes
    if scopes and "conversations" not in scopes:
        raise Forbidden(
            "the credential lacks the scope `conversations`, which a turn of a conversation needs",
            field="spec.chat.conversation_id",
            metadata={"scope": "conversations"},
        )


def note_usage(log: UsageLog, run: LiveRun, nanos: int, tokens: Tokens, charge: Charge | None) -> None:
    """Hands a run that has ended to the usage log.

    Args:
        log: The log.
        run: The run.
        nanos: How long it took.
        tokens: What it consumed.
        charge: What it was charged, if anything.
    """
    create_micros, duration = run.create_micros, nanos // 1_000_000
    first = run.log.first_content_ms(create_micros, duration)
    log.note(run.record(), run.caller, OPERATION, tokens, create_micros, duration, first, charge)


def _watch_over(future: asyncio.Future[Any]) -> None:
    """Logs what goes wrong where nobody waits for it."""
    future.add_done_callback(_error_of)


def _error_of(future: asyncio.Future[Any]) -> BaseException | None:
    if future.cancelled():
        return asyncio.CancelledError()
    error = future.exception()
    _log_failure(error)
    return error


def _log_failure(result: object) -> None:
    if isinstance(result, BaseException):
        logger.error("the end of a run could not be settled", error=str(result), exc_info=result)
