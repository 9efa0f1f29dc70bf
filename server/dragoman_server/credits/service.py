"""Credits: prices, reserving what work can cost, and the balances of accounts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.audit import audit_entry
from dragoman_server.authority import require, seen_account
from dragoman_server.clock import system_clock
from dragoman_server.credits.advance import Advances
from dragoman_server.credits.hold import MOST_RESERVED, Hold
from dragoman_server.credits.plans import Plans
from dragoman_server.credits.prices import MOST_REMEMBERED, PriceList
from dragoman_server.credits.rules import Rule, rule_of
from dragoman_server.errors import (
    DragomanError,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidRequest,
    NotFound,
)
from dragoman_server.ids import new_id
from dragoman_server.store.ledger.records import ADJUST, GRANT, Post, Settle, Verdict
from dragoman_server.store.ledger.records import Hold as Held
from dragoman_server.tasks import end_tasks
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from dragoman_server.caller import Caller
    from dragoman_server.clock import Clock
    from dragoman_server.credits.prices import Price
    from dragoman_server.settings import CreditSettings, PlanSettings
    from dragoman_server.store.ledger.records import Balance, Entry, LedgerStore, Outcome

__all__ = ["Credits", "Hold", "Rule", "amount_text", "rule_of"]

AUTO = "auto"
"""The token type that leaves the choice of the currency to the server."""

SWEEP_SECONDS = 30.0
"""How often a process tells that it lives, and looks for those that do not."""
GONE_SECONDS = 90.0
"""After how much silence a process counts as gone."""
END_TIMEOUT = 5.0
"""How long the end waits until what was reserved ahead is given back; else others notice the silence."""
PLANS_EVERY = 20
"""How many sweeps lie between two looks at all plans."""

logger = get_logger(__name__)

MOST_AMOUNT = 10**15
"""Most millionths of one grant or correction."""
MOST_NOTE_CHARS = 500
MOST_REQUEST_ID_CHARS = 256
MOST_TRIES = 8
"""How often a lowered limit is computed anew because somebody else was faster."""


class _Work(NamedTuple):
    """What credits are reserved for; `output_tokens` is the limit of each choice, and `asked` that of the request."""

    account_id: str
    run_id: str
    step_id: str
    input_tokens: int
    output_tokens: int
    asked: int
    choices: int
    durable: bool


class Credits:
    """What is charged for work, and what accounts have to spend.

    Args:
        ledger: The ledger.
        settings: The prices, and what happens when a balance is short.
        plans: The plans that accounts can be subscribed to.
        clock: The time.

    Attributes:
        enabled: Whether anything is charged.
    """

    def __init__(
        self,
        ledger: LedgerStore,
        settings: CreditSettings,
        plans: Iterable[PlanSettings] = (),
        clock: Clock = system_clock,
    ) -> None:
        self.enabled = settings.enabled
        self.settings = settings
        self.plans = tuple(plans)
        self._ledger = ledger
        self._clock = clock
        self._prices = PriceList(settings.prices)
        self._owner_id = new_id("own")
        self._advances = Advances(ledger, self._owner_id, clock, wait_for_disk=settings.wait_for_disk)
        self._months = Plans(ledger, self.plans, settings.currency, clock, self._advances)
        self._sweeping: asyncio.Task[None] | None = None
        named = (settings.currency, *settings.currencies, *settings.auto, *(plan.currency for plan in self.plans))
        self._known: dict[tuple[str, str, str], Sequence[tuple[str, Price]]] = {}  # what `_priced` returned
        self._currencies = tuple(dict.fromkeys(name for name in named if name))

    async def start(self) -> None:
        """Releases what processes that are gone have left reserved, and goes on to do so.

        Raises:
            Unavailable: If the database does not answer.
        """
        if self.enabled:
            await self._ledger.beat(self._owner_id)
            await self._release_orphans()
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Ends the sweeps. All work must have been settled before."""
        if self._sweeping is None:
            return
        await end_tasks([self._sweeping])
        await self._advances.end(END_TIMEOUT)
        try:
            await self._ledger.leave(self._owner_id)
        except DragomanError as error:  # others will notice the silence
            logger.warning("the end of this process could not be told", error=error.message)

    async def hold(
        self,
        caller: Caller,
        *,
        run_id: str,
        step_id: str,
        operation: str,
        model: str,
        token_type: str,
        input_tokens: int,
        output_tokens: int,
        choices: int = 1,
        durable: bool = False,
        brief: bool = False,
    ) -> Hold | None:
        """Reserves the most that a piece of work can cost; returns None if it is free.

        Args:
            caller: Who pays.
            run_id: The run.
            step_id: The step of it. For the same run and step only one reservation is ever made.
            operation: `chat`, `embeddings` or `tool:NAME`.
            model: The model's id.
            token_type: The currency, or `auto`; empty means as configured.
            input_tokens: What it reads, counted or estimated.
            output_tokens: The limit of each choice; 0 if none is known, which means the configured one.
            choices: How many answers are asked for.
            durable: Whether the run outlives this process.
            brief: Whether the work ends soon, and asks for no more: for accounts that ask for such work often, credits
                are reserved ahead, so that nothing has to be written before each. The step must be new.

        Raises:
            InsufficientCredits: If the balance does not buy it.
            InvalidRequest: If the token type does not exist, or is not what the model is paid in.
            Unavailable: If the database does not answer.
        """
        if not self.enabled:
            return None
        priced = self._priced(token_type, operation, model)
        if not priced:
            return None
        if caller.plan and self._months.is_due(caller.account_id, caller.plan):
            await self._months.renew(caller.account_id, caller.plan)
        if brief:
            hold = self.hold_ahead(
                caller, run_id, step_id, operation, model, token_type, input_tokens, output_tokens, choices
            )
            if hold is not None:
                return hold
        limit = output_tokens or self.settings.max_output_tokens
        work = _Work(caller.account_id, run_id, step_id, input_tokens, limit, output_tokens, choices, durable)
        return await self._reserve(work, priced, brief=brief)

    def hold_ahead(
        self,
        caller: Caller,
        run_id: str,
        step_id: str,
        operation: str,
        model: str,
        token_type: str,
        input_tokens: int,
        output_tokens: int,
        choices: int,
    ) -> Hold | None:
        """Does what `hold` does for brief work, if enough is reserved ahead for the account and not taken.

        Returns:
            None if it is not, or if something has to be found out first: then ask `hold`.
        """
        priced = self._known.get((token_type, operation, model))
        if not priced:
            return None
        currency, price = priced[0]
        advance = self._advances.find((caller.account_id, currency))
        if advance is None or (caller.plan and self._months.is_due(caller.account_id, caller.plan)):
            return None
        limit = output_tokens or self.settings.max_output_tokens
        amount = price.at_most(input_tokens, limit * choices)
        if not advance.take(amount):
            return None
        return Hold(
            self._ledger, (caller.account_id, currency, run_id, step_id), amount, price, input_tokens,
            limit if price.output else output_tokens, choices, False, self.settings.charge_failed, self._clock,
            self._advances, advance,
        )  # fmt: skip

    async def welcome(self, account_id: str) -> None:
        """Grants a new account what new accounts are granted. Done again, it changes nothing.

        Raises:
            Unavailable: If the database does not answer.
        """
        if self.enabled and self.settings.welcome_micros:
            await self._ledger.submit(
                Post(
                    account_id, self.settings.currency, GRANT, self.settings.welcome_micros, "welcome", "welcome",
                    new_id("txn"), self._now(),
                )
            )  # fmt: skip

    async def balances(self, caller: Caller, account_id: str = "") -> tuple[list[Balance], str, datetime | None]:
        """Returns the balances of an account by currency, its plan, and when the next month of that begins.

        Args:
            caller: Who asks; needs OPERATOR for another account than its own.
            account_id: The account; empty means the caller's own.

        Raises:
            NotFound: If it is another's.
            Unavailable: If the database does not answer.
        """
        account_id = seen_account(caller, account_id)
        subscription = await self._ledger.subscription(account_id)
        if subscription is None:
            return await self._balances(account_id), "", None
        if self.enabled:
            await self._months.renew(account_id, subscription.plan)
        balances = await self._balances(account_id)
        return balances, subscription.plan, self._months.next_month(subscription)

    async def entries(
        self,
        caller: Caller,
        page_size: int = 0,
        page_token: str = "",
        *,
        account_id: str = "",
        currency: str = "",
        run_id: str = "",
    ) -> tuple[list[Entry], str]:
        """Returns the next entries of an account, newest first, and the token of the page after; empty on the last.

        Args:
            caller: Who asks; needs OPERATOR for another account than its own.
            page_size: Most entries to return; 0 means 50, more than 1,000 means 1,000.
            page_token: The token that came with the page before.
            account_id: The account; empty means the caller's own.
            currency: Only entries of this currency; empty means all.
            run_id: Only entries about this run; empty means all.

        Raises:
            InvalidRequest: If the size is negative, or the token is not of this list.
            NotFound: If the account is another's.
            Unavailable: If the database does not answer.
        """
        account_id = seen_account(caller, account_id)
        size = paging.page_size(page_size)
        scope = f"entries {account_id} {currency} {run_id}"
        before = "".join(map(str, paging.decode_token(scope, page_token, str)))
        found = await self._ledger.entries(
            account_id, limit=size + 1, before_id=before, currency=currency, run_id=run_id
        )
        token = paging.encode_token(scope, found[size - 1].id) if len(found) > size else ""
        return found[:size], token

    async def grant(
        self, caller: Caller, account_id: str, amount: int, *, currency: str = "", note: str = "", request_id: str = ""
    ) -> tuple[Entry, Balance]:
        """Adds to a balance; returns the entry and the balance after it.

        Args:
            caller: Who does it; needs OPERATOR.
            account_id: The account.
            amount: How much, in millionths.
            currency: The currency; empty means the default.
            note: Why.
            request_id: The caller's name of the grant: given again, it changes nothing; empty for none.

        Raises:
            Forbidden: If the caller may not.
            InvalidRequest: If the amount is not positive or too large, or the currency does not exist.
            NotFound: If the account does not exist.
            IdempotencyConflict: If the request id was used for another amount or currency.
            Unavailable: If the database does not answer.
        """
        if amount <= 0:
            require(caller, KeyRole.KEY_ROLE_OPERATOR)
            raise InvalidRequest("`amount_micros` must be more than 0", field="amount_micros")
        return await self._post(caller, GRANT, account_id, amount, currency, note, request_id)

    async def adjust(
        self, caller: Caller, account_id: str, amount: int, *, currency: str = "", note: str = "", request_id: str = ""
    ) -> tuple[Entry, Balance]:
        """Corrects a balance, up or down; returns the entry and the balance after it. See `grant`.

        Raises:
            Forbidden: If the caller may not.
            InvalidRequest: If the amount is 0 or too large, or the currency does not exist.
            NotFound: If the account does not exist.
            InsufficientCredits: If it would take more than what is there and not reserved.
            IdempotencyConflict: If the request id was used for another amount or currency.
            Unavailable: If the database does not answer.
        """
        if amount == 0:
            require(caller, KeyRole.KEY_ROLE_OPERATOR)
            raise InvalidRequest("`amount_micros` must not be 0", field="amount_micros")
        return await self._post(caller, ADJUST, account_id, amount, currency, note, request_id)

    def _priced(self, token_type: str, operation: str, model: str) -> Sequence[tuple[str, Price]]:
        """Returns what can pay for work, in order, with the price in each; nothing if the work is free."""
        known = token_type, operation, model
        if (priced := self._known.get(known)) is None:
            priced = self._find_prices(*known)
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[known] = priced
        return priced

    def _find_prices(self, token_type: str, operation: str, model: str) -> Sequence[tuple[str, Price]]:
        if token_type in ("", AUTO):
            asked = self.settings.auto or (self.settings.currency,)
        elif token_type in self._currencies:
            asked = (token_type,)
        else:
            raise InvalidRequest(
                f"the token type {token_type[:64]!r} does not exist; there are: {', '.join((*self._currencies, AUTO))}",
                field="spec.chat.token_type",
            )
        find = self._prices.find
        found = [(currency, price) for currency in asked if (price := find(operation, model, currency)) is not None]
        if not found:
            others = [currency for currency in self._currencies if find(operation, model, currency) is not None]
            if others:
                raise InvalidRequest(
                    f"`{model[:128]}` is paid for with {' or '.join(others)}; name one of these as token type",
                    field="spec.chat.token_type",
                )
        return found

    async def _reserve(self, work: _Work, priced: Sequence[tuple[str, Price]], *, brief: bool) -> Hold | None:
        """Reserves the most that work can cost in the first currency that has it; returns None if that is nothing."""
        outcomes = []
        most = work.output_tokens * work.choices
        for currency, price in priced:
            needed = price.at_most(work.input_tokens, most)
            if not needed:
                return None
            hold, outcome = await self._try(work, currency, price, needed, work.output_tokens)
            if hold is not None:
                if brief:
                    self._advances.missed(outcome.balance, needed)
                return hold
            outcomes.append(outcome)
        if self.settings.when_short == "lower":
            for (currency, price), outcome in zip(priced, outcomes, strict=True):
                hold = await self._lower(work, currency, price, outcome) if price.output else None
                if hold is not None:
                    return hold
        currency, price = priced[0]
        needed = price.at_most(work.input_tokens, most)
        raise _insufficient(currency, needed, outcomes[0].balance.available_micros)

    async def _try(
        self, work: _Work, currency: str, price: Price, amount: int, output_tokens: int, *, lowered: bool = False
    ) -> tuple[Hold | None, Outcome]:
        """Reserves an amount, if the balance has it."""
        held = Held(
            work.account_id, currency, work.run_id, work.step_id, min(amount, MOST_RESERVED), self._owner_id,
            work.durable, new_id("txn"), self._now(),
        )  # fmt: skip
        try:
            outcome = await self._advances.submit(held)
        except asyncio.CancelledError:
            # It is written all the same, and nobody would know: so it is given back, behind it in the same order.
            self._ledger.send(Settle(*held[:4], 0, Rule.REFUSED, new_id("txn"), new_id("txn"), self._now()), _forget)
            raise
        if outcome.verdict not in (Verdict.DONE, Verdict.KNOWN):
            return None, outcome
        if outcome.entry is not None:  # it had been made before, perhaps in another currency or of another amount
            held = held._replace(currency=outcome.entry.currency)
        if outcome.amount_micros != held.amount_micros:
            held = held._replace(amount_micros=outcome.amount_micros)
        limit = output_tokens if price.output else work.asked
        hold = Hold(
            self._ledger, held[:4], held.amount_micros, price, work.input_tokens, limit, work.choices,
            lowered, self.settings.charge_failed, self._clock, self._advances,
        )  # fmt: skip
        return hold, outcome

    async def _lower(self, work: _Work, currency: str, price: Price, outcome: Outcome) -> Hold | None:
        """Reserves what the balance buys, if that is a token at least; others may spend it meanwhile."""
        for _ in range(MOST_TRIES):
            bought = price.buys(outcome.balance.available_micros, work.input_tokens) // work.choices
            if bought < 1:
                break
            tokens = min(bought, work.output_tokens)
            amount = price.at_most(work.input_tokens, tokens * work.choices)
            lowered = tokens < work.output_tokens
            hold, outcome = await self._try(work, currency, price, amount, tokens, lowered=lowered)
            if hold is not None:
                return hold
        return None

    async def _balances(self, account_id: str) -> list[Balance]:
        """Returns the balances of an account. What is reserved ahead and not taken is to be had, so it is available."""
        balances = await self._ledger.balances(account_id)
        for index, balance in enumerate(balances):
            free = min(self._advances.spare(balance[:2]), balance.held_micros)  # they were not read in the same moment
            if free:
                balances[index] = balance._replace(
                    available_micros=balance.available_micros + free, held_micros=balance.held_micros - free
                )
        return balances

    async def _post(
        self, caller: Caller, kind: int, account_id: str, amount: int, currency: str, note: str, request_id: str
    ) -> tuple[Entry, Balance]:
        require(caller, KeyRole.KEY_ROLE_OPERATOR)
        account_id = account_id or caller.account_id
        currency = currency or self.settings.currency
        if currency not in self._currencies:
            known = ", ".join(self._currencies)
            raise InvalidRequest(f"the currency {currency[:64]!r} does not exist; there are: {known}", field="currency")
        if abs(amount) > MOST_AMOUNT:
            raise InvalidRequest(f"`amount_micros` must be at most {MOST_AMOUNT}", field="amount_micros")
        if "\0" in account_id:  # PostgreSQL would refuse it, and with it all that is written together with it
            raise NotFound(f"account {account_id[:64]!r} does not exist")
        if len(note) > MOST_NOTE_CHARS or "\0" in note:
            raise InvalidRequest(f"`note` must have at most {MOST_NOTE_CHARS} characters", field="note")
        if len(request_id) > MOST_REQUEST_ID_CHARS or not request_id.isprintable():
            raise InvalidRequest(
                f"`request_id` must have at most {MOST_REQUEST_ID_CHARS} printable characters", field="request_id"
            )
        what = "grant" if kind == GRANT else "adjust"
        entry_id, now = new_id("txn"), self._now()
        details = {"currency": currency, "amount_micros": amount, "note": note}
        audit = audit_entry(caller, account_id, now, f"credits.{what}", entry_id, **details)
        key = f"{what}:{request_id or entry_id}"
        post = Post(account_id, currency, kind, amount, key, note, entry_id, now, audit)
        outcome = await self._advances.submit(post)
        entry = outcome.entry
        if outcome.verdict is Verdict.MISSING:
            raise NotFound(f"account {account_id[:64]!r} does not exist")
        if entry is None:
            raise _insufficient(currency, -amount, outcome.balance.available_micros)
        if (entry.currency, entry.amount_micros) != (currency, amount):
            raise IdempotencyConflict(
                f"the request id {request_id!r} was used for {entry.amount_micros} of {entry.currency}; use a new one",
                field="request_id",
                metadata={"entry_id": entry.id},
            )
        return entry, outcome.balance

    async def _sweep(self) -> None:
        count = 0
        while True:
            try:
                await self._ledger.beat(self._owner_id)
                await self._release_orphans()
                if count % PLANS_EVERY == 0:
                    await self._months.renew_all()
            except DragomanError as error:
                logger.warning("the ledger could not be swept", error=error.message)
            except Exception:
                logger.exception("the ledger could not be swept")
            count += 1
            await asyncio.sleep(SWEEP_SECONDS)

    async def _release_orphans(self) -> None:
        """Releases what processes that are gone have reserved.

        This process has no orphans: whatever it reserves is handed to who settles it, or released, by `hold`.
        """
        orphans = await self._ledger.orphans(self._owner_id, GONE_SECONDS)
        releases = [
            self._ledger.submit(
                Settle(
                    hold.account_id, hold.currency, hold.run_id, hold.step_id, 0, Rule.ORPHANED,
                    new_id("txn"), new_id("txn"), self._now(),
                )
            )
            for hold in orphans
        ]  # fmt: skip
        if releases:
            await asyncio.gather(*releases)
            logger.warning("released credits of processes that are gone", holds=len(releases))

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _insufficient(currency: str, needed: int, available: int) -> InsufficientCredits:
    return InsufficientCredits(
        f"this needs {amount_text(needed)} {currency}, and {amount_text(available)} are available",
        metadata={"currency": currency, "needed_micros": str(needed), "available_micros": str(available)},
    )


def amount_text(micros: int) -> str:
    """Returns millionths as an amount for people: `1.5`, `0.000001`."""
    whole, rest = divmod(abs(micros), 1_000_000)
    return f"{'-' if micros < 0 else ''}{whole}" + (f".{rest:06}".rstrip("0") if rest else "")


def _forget(outcome: Outcome | Exception) -> None:
    """Logs what goes wrong where nobody waits for it."""
    if isinstance(outcome, Exception):
        logger.error("a reservation was not given back", error=str(outcome))
