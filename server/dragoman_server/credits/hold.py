"""What is reserved for a piece of work, from its beginning to its settlement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.usage_pb2 import Charge
from dragoman_server.credits.rules import Rule, is_charged
from dragoman_server.errors import Unavailable
from dragoman_server.ids import new_id
from dragoman_server.store.ledger.records import Extend, Settle, Verdict
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.clock import Clock
    from dragoman_server.credits.prices import Price
    from dragoman_server.store.ledger.records import Hold as Held
    from dragoman_server.store.ledger.records import LedgerStore, Outcome

PATIENCE = 3
"""How often a settlement is tried before its run is told that it is not written yet; it is tried on all the same."""

FIRST_PAUSE = 0.5
MOST_PAUSE = 30.0

logger = get_logger(__name__)


class Hold:
    """Credits that are reserved for a piece of work. It must be settled, whatever becomes of the work.

    Args:
        ledger: Where it stands.
        held: What was reserved.
        price: What the work costs.
        input_tokens: What it reads.
        output_tokens: What each choice may write; 0 for any number.
        choices: How many answers there are.
        lowered: Whether that is less than what was asked for.
        charge_failed: Whether failures are charged.
        clock: The time.

    Attributes:
        currency: The currency.
        output_tokens: What each choice may write; 0 for any number. Grows with `extend`.
        lowered: Whether the balance bought less than what was asked for.
    """

    __slots__ = (
        "_amount", "_charge_failed", "_charged", "_choices", "_clock", "_held", "_input_tokens", "_ledger", "_price",
        "_serial", "_settled", "_tries", "_waiting", "currency", "lowered", "output_tokens",
    )  # fmt: skip

    def __init__(
        self,
        ledger: LedgerStore,
        held: Held,
        price: Price,
        input_tokens: int,
        output_tokens: int,
        choices: int,
        *,
        lowered: bool,
        charge_failed: bool,
        clock: Clock,
    ) -> None:
        self.currency = held.currency
        self.output_tokens = output_tokens
        self.lowered = lowered
        self._ledger = ledger
        self._held = held
        self._price = price
        self._input_tokens = input_tokens
        self._choices = choices
        self._charge_failed = charge_failed
        self._clock = clock
        self._serial = 0
        self._tries = 0
        self._settled = False  # or about to be
        self._charged: Charge | BaseException | None = None
        self._waiting: list[Callable[[Charge | BaseException], None]] = []
        self._amount = held.amount_micros

    def covers(self, output_tokens: int) -> bool:
        """Tells whether each choice may grow to so many tokens."""
        if not self._price.output:
            return True
        return output_tokens <= self._price.buys(self._amount, self._input_tokens) // self._choices

    def extend(self, output_tokens: int) -> asyncio.Future[bool]:
        """Reserves enough for each choice to grow to so many tokens; the future tells whether the balance has it.

        One extension at a time: another must wait for the answer.

        Raises:
            Unavailable: From the future, if the database does not answer.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._settled:
            answer.set_result(False)
            return answer
        if self.covers(output_tokens):
            self.output_tokens = self.output_tokens and max(self.output_tokens, output_tokens)
            answer.set_result(True)
            return answer
        self._serial += 1
        needed = self._price.at_most(self._input_tokens, output_tokens * self._choices) - self._amount
        act = Extend(*self._held[:4], self._serial, needed, new_id("txn"), self._now())

        def extended(outcome: Outcome | Exception) -> None:
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
                return
            granted = outcome.verdict in (Verdict.DONE, Verdict.KNOWN)
            if granted:
                self._amount = outcome.amount_micros
                self.output_tokens = self.output_tokens and max(self.output_tokens, output_tokens)
            answer.set_result(granted)

        self._ledger.send(act, extended)
        return answer

    def settle(self, usage: Usage | None, rule: str) -> asyncio.Future[Charge]:
        """Does what `settle_then` says; the future resolves, or fails, when `then` would be called."""
        future: asyncio.Future[Charge] = asyncio.get_running_loop().create_future()

        def tell(charged: Charge | BaseException) -> None:
            if future.done():
                return
            if isinstance(charged, BaseException):
                future.set_exception(charged)
            else:
                future.set_result(charged)

        self.settle_then(usage, rule, tell)
        return future

    def settle_then(self, usage: Usage | None, rule: str, then: Callable[[Charge | BaseException], None]) -> None:
        """Charges what the work consumed, at most what is reserved, and gives back the rest.

        Only the first call counts; what it comes to is told to all.

        Args:
            usage: What was consumed; None if nothing was, which gives back everything.
            rule: How the work ended, one of `Rule`; it decides whether anything is charged.
            then: Called once, perhaps within this call: with the charge when it is durable, or with `Unavailable` if
                the database does not answer for long. The charge is written as soon as it does, if this process lives
                so long; else everything is given back.

        Raises:
            ValueError: If there is no such rule.
        """
        rule = Rule(rule)
        if self._charged is not None:
            then(self._charged)
            return
        self._waiting.append(then)
        if self._settled:
            return
        charged = is_charged(rule, usage, charge_failed=self._charge_failed)
        amount = self._price.of(usage) if charged and usage is not None else 0
        note = f"{rule}, estimated" if charged and usage is not None and usage.estimated else str(rule)
        self._settled = True
        self._send(Settle(*self._held[:4], amount, note, new_id("txn"), new_id("txn"), self._now()))

    def _send(self, act: Settle) -> None:
        def written(outcome: Outcome | Exception) -> None:
            if isinstance(outcome, Exception):
                self._try_again(act, outcome)
            elif self._charged is None:
                self._tell(self._charge(outcome))

        self._ledger.send(act, written)

    def _charge(self, outcome: Outcome) -> Charge:
        charge = Charge(
            currency=self.currency,
            amount_micros=outcome.amount_micros,
            available_micros=outcome.balance.available_micros,
        )
        if self.lowered:
            charge.lowered_output_tokens = self.output_tokens
        return charge

    def _tell(self, charged: Charge | BaseException) -> None:
        self._charged = charged
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(charged)

    def _try_again(self, act: Settle, error: Exception) -> None:
        self._tries += 1
        ends = not isinstance(error, Unavailable) or error.reason is Reason.SHUTTING_DOWN
        if self._charged is None and (ends or self._tries >= PATIENCE):
            self._tell(error)
        if ends:
            logger.error("a charge was not written", run_id=act.run_id, amount=act.charge_micros, error=str(error))
            return
        logger.warning("a charge is not written yet", run_id=act.run_id, tries=self._tries, error=str(error))
        pause = min(FIRST_PAUSE * 2 ** (self._tries - 1), MOST_PAUSE)
        asyncio.get_running_loop().call_later(pause, self._send, act)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)
