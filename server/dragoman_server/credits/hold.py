"""What is reserved for a piece of work, from its beginning to its settlement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.usage_pb2 import Charge
from dragoman_server.credits.rules import Rule, is_charged
from dragoman_server.errors import Unavailable
from dragoman_server.ids import new_id
from dragoman_server.store.ledger.records import Extend, Settle, Spend, Verdict
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.clock import Clock
    from dragoman_server.credits.advance import Advance, Advances
    from dragoman_server.credits.prices import Price
    from dragoman_server.store.ledger.records import LedgerStore, Outcome, Told

PATIENCE = 3
"""How often a settlement is tried before its run is told that it is not written yet; it is tried on all the same."""

MOST_RESERVED = 2**62
"""No balance ever has so much; databases have no room for more."""

_COMPLETED = str(Rule.COMPLETED)
_ESTIMATED = f"{_COMPLETED}, estimated"

FIRST_PAUSE = 0.5
MOST_PAUSE = 30.0
MOST_DOUBLINGS = 10  # of the pause: many more would be no number

logger = get_logger(__name__)


class Hold:
    """Credits that are reserved for a piece of work. It must be settled, whatever becomes of the work.

    Args:
        ledger: Where it stands.
        about: The account, the currency, the run and its step.
        amount: What was reserved, in millionths.
        price: What the work costs.
        input_tokens: What it reads.
        output_tokens: What each choice may write; 0 for any number.
        choices: How many answers there are.
        lowered: Whether that is less than what was asked for.
        charge_failed: Whether failures are charged.
        clock: The time.
        advances: What is reserved ahead for the account besides.
        advance: Of these, that from which it was taken; None if it was reserved on its own.

    Attributes:
        currency: The currency.
        output_tokens: What each choice may write; 0 for any number. Grows with `extend`.
        lowered: Whether the balance bought less than what was asked for.
    """

    __slots__ = (
        "_about", "_act", "_advance", "_advances", "_amount", "_charge_failed", "_charged", "_choices", "_clock",
        "_input_tokens", "_ledger", "_price", "_serial", "_settled", "_waiting", "currency", "lowered", "output_tokens",
    )  # fmt: skip

    def __init__(
        self,
        ledger: LedgerStore,
        about: tuple[str, str, str, str],
        amount: int,
        price: Price,
        input_tokens: int,
        output_tokens: int,
        choices: int,
        lowered: bool,
        charge_failed: bool,
        clock: Clock,
        advances: Advances,
        advance: Advance | None = None,
    ) -> None:
        self.currency = about[1]
        self.output_tokens = output_tokens
        self.lowered = lowered
        self._ledger = ledger
        self._about = about
        self._amount = amount
        self._price = price
        self._input_tokens = input_tokens
        self._choices = choices
        self._charge_failed = charge_failed
        self._clock = clock
        self._advances = advances
        self._advance = advance
        self._serial = 0
        self._settled = False  # or about to be
        self._act: Settle | Spend
        self._charged: Charge | BaseException | None = None
        self._waiting: list[Callable[[Charge | BaseException], None]] = []

    def covers(self, output_tokens: int) -> bool:
        """Tells whether each choice may grow to so many tokens."""
        if not self._price.output:
            return True
        return output_tokens <= self._price.buys(self._amount, self._input_tokens) // self._choices

    def extend(self, output_tokens: int) -> asyncio.Future[bool]:
        """Reserves enough for each choice to grow to so many tokens; the future tells whether the balance has it.

        What was taken from an advance does not grow. One extension at a time: another must wait for the answer.

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
        needed = self._price.at_most(self._input_tokens, output_tokens * self._choices) - self._amount
        self._serial += 1
        act = Extend(*self._about, self._serial, needed, new_id("txn"), self._now())
        advance = self._advances.find(self._about[:2])

        def extended(outcome: Outcome | Exception) -> None:
            nonlocal advance
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
                return
            if outcome.verdict is Verdict.SHORT and advance is not None and advance.give_back():
                advance = self._advances.at_stake(advance)
                self._ledger.send(act, extended)
                return
            granted = outcome.verdict in (Verdict.DONE, Verdict.KNOWN)
            if granted:
                self._amount = outcome.amount_micros
                self.output_tokens = self.output_tokens and max(self.output_tokens, output_tokens)
            answer.set_result(granted)

        self._ledger.send(act, extended)
        return answer

    def pay(self, usage: Usage) -> Charge | None:
        """Does what `settle_then` says for work that ended well, if that can be done at once.

        Args:
            usage: What was consumed.

        Returns:
            The charge. None if it has to be waited for, or was settled before: then ask `settle_then`.
        """
        advance = self._advance
        if advance is None or advance.note is None or advance.closed or self._settled:
            return None
        amount = self._price.of(usage)
        if amount > self._amount:
            amount = self._amount
        note = _ESTIMATED if usage.estimated else _COMPLETED
        act = Spend(*self._about, amount, note, advance.id, new_id("txn"), int(self._clock() * 1_000_000))
        if not advance.note(act, advance.written):
            return None
        self._settled = True
        advance.noted += 1
        advance.taken -= self._amount
        advance.reserved -= amount
        spare = advance.reserved - advance.taken + advance.returning
        if self._advances.ending:
            spare = self._advances.spare(advance.key)
        available = advance.balance.available_micros + spare
        charge = self._charged = Charge(currency=self.currency, amount_micros=amount, available_micros=available)
        advance.adjust(advance.balance)
        return charge

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
        if rule.__class__ is not Rule:
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
        if self._advance is None:
            amount = min(amount, MOST_RESERVED)  # what is reserved may be more than is known here
            self._act = Settle(*self._about, amount, note, new_id("txn"), new_id("txn"), self._now())
        else:
            amount = min(amount, self._amount)
            self._act = Spend(*self._about, amount, note, self._advance.id, new_id("txn"), self._now())
        self._ledger.send(self._act, self._answered)

    def _answered(self, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            _try_again(self._ledger, self._act, self._written, 1, outcome)
        else:
            self._written(outcome)

    def _written(self, outcome: Outcome | Exception) -> None:
        """Takes note of what became of the settlement: perhaps that it is late, and later that it is written."""
        if isinstance(outcome, Exception):
            if self._charged is None:
                self._tell(outcome)
            return
        advance = self._advance
        if advance is not None:
            advance.settled(self._amount, outcome)
        charge = self._charge(outcome) if self._charged is None else None
        if advance is not None:
            advance.adjust(outcome.balance)  # after the charge was made: the ledger may answer within this
        if charge is not None:
            self._tell(charge)

    def _charge(self, outcome: Outcome) -> Charge:
        self._advances.learn(outcome.balance)
        available = outcome.balance.available_micros + self._advances.spare(self._about[:2])
        charge = Charge(currency=self.currency, amount_micros=outcome.amount_micros, available_micros=available)
        if self.lowered:
            charge.lowered_output_tokens = self.output_tokens
        return charge

    def _tell(self, charged: Charge | BaseException) -> None:
        self._charged = charged
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(charged)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def send_surely(ledger: LedgerStore, act: Settle | Spend, then: Told, tries: int = 0) -> None:
    """Settles what was reserved, as soon as the database answers.

    Args:
        ledger: Where it is written.
        act: The settlement.
        then: Called with what became of it when it is durable; with an error before, if that takes long, or if it can
            never be.
        tries: How often that was tried before.
    """

    def written(outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):
            _try_again(ledger, act, then, tries + 1, outcome)
        else:
            then(outcome)

    ledger.send(act, written)


def _try_again(ledger: LedgerStore, act: Settle | Spend, then: Told, tries: int, error: Exception) -> None:
    ends = not isinstance(error, Unavailable) or error.reason is Reason.SHUTTING_DOWN
    if ends or tries == PATIENCE:
        then(error)
    if ends:
        logger.error("a charge was not written", run_id=act.run_id, amount=act.charge_micros, error=str(error))
        return
    logger.warning("a charge is not written yet", run_id=act.run_id, tries=tries, error=str(error))
    pause = min(FIRST_PAUSE * 2 ** min(tries - 1, MOST_DOUBLINGS), MOST_PAUSE)
    asyncio.get_running_loop().call_later(pause, send_surely, ledger, act, then, tries)
