"""Accounts, the tenants: making, listing, changing and erasing them, and what administrators did in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server import paging
from dragoman_server.accounts.acts import checked_limits, checked_name, nothing, position, token_of, welcome_new
from dragoman_server.accounts.tokens import ACCOUNT_ID
from dragoman_server.audit import actor
from dragoman_server.authority import managed_account, require, seen_account
from dragoman_server.caller import DEFAULT_ACCOUNT
from dragoman_server.errors import Conflict, InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.identity.records import AccountRecord
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.account_service_pb2 import RateLimits
    from dragoman_server.accounts.acts import Acts, Welcome
    from dragoman_server.accounts.authentication import Authenticator
    from dragoman_server.caller import Caller
    from dragoman_server.store.identity.records import AuditRecord, IdentityStore

_ALL = "*"
"""The scope of page tokens of the list of all accounts; no account has this id."""

logger = get_logger(__name__)


class Tenants:
    """The accounts.

    Methods raise `Forbidden` if the caller may not, and `NotFound` for an account that does not exist or is another's.

    Args:
        store: Those who may call.
        authenticator: Is told what changed.
        acts: Tells of acts.
        plans: The names of the plans there are.
        welcome: Is told of each new account.
    """

    def __init__(
        self,
        store: IdentityStore,
        authenticator: Authenticator,
        acts: Acts,
        plans: Iterable[str] = (),
        welcome: Welcome = nothing,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._acts = acts
        self._plans = tuple(plans)
        self._welcome = welcome

    async def create(
        self, caller: Caller, name: str, account_id: str = "", plan: str = "", limits: RateLimits | None = None
    ) -> AccountRecord:
        """Makes an account. Needs OPERATOR.

        Args:
            caller: Who asks.
            name: What it is called, 1 to 128 characters.
            account_id: Its id, as an identity provider has it; empty for one of this server's making.
            plan: The plan that it is subscribed to.
            limits: Its own limits.

        Raises:
            Conflict: If there is one of this id.
            InvalidRequest: If an argument is out of its bounds.
        """
        require(caller, KeyRole.KEY_ROLE_OPERATOR)
        if account_id and (not ACCOUNT_ID.fullmatch(account_id) or ":" in account_id):
            what = "account_id must have 1 to 128 letters, digits and ._@|-"
            raise InvalidRequest(what, field="account_id")
        now = self._acts.now()
        account = AccountRecord(
            id=account_id or new_id("acc"),
            create_time=now,
            name=checked_name(name),
            plan=self._checked_plan(plan),
            plan_start_time=now if plan else None,
            limits=None if limits is None else checked_limits(limits, "limits"),
            welcome_due=True,
        )
        audit = self._acts.entry(caller, account.id, "account.create", account.id, name=name, plan=plan)
        await self._store.accounts.add(account, audit)
        await welcome_new(self._store.accounts, self._welcome, account)
        self._authenticator.forget_account(account.id)
        logger.info("account made", account_id=account.id, by=actor(caller))
        return account

    async def get(self, caller: Caller, account_id: str = "") -> AccountRecord:
        """Returns an account: the caller's own, or any for an OPERATOR."""
        account_id = seen_account(caller, account_id)
        return _found(await self._store.accounts.get(account_id), account_id)

    async def page(self, caller: Caller, page_size: int = 0, page_token: str = "") -> tuple[list[AccountRecord], str]:
        """Returns the next of all accounts, oldest first, and the token of the page after; empty on the last.

        Raises:
            InvalidRequest: If the size is negative, or the token is not of this list.
        """
        require(caller, KeyRole.KEY_ROLE_OPERATOR)
        size = paging.page_size(page_size)
        accounts = await self._store.accounts.page(limit=size + 1, after=position(_ALL, page_token))
        return accounts[:size], token_of(_ALL, accounts, size)

    async def update(
        self,
        caller: Caller,
        account_id: str,
        *,
        name: str | None = None,
        plan: str | None = None,
        disabled: bool | None = None,
        limits: RateLimits | None = None,
    ) -> AccountRecord:
        """Changes what is given of an account, at once for this process and within seconds for others. Needs OPERATOR.

        The months of a plan are counted from the moment that it is subscribed to; an empty one ends the subscription.

        Raises:
            Conflict: If the own account shall be disabled.
            InvalidRequest: If a value is out of its bounds.
        """
        account = await self.get(caller, account_id)
        require(caller, KeyRole.KEY_ROLE_OPERATOR)
        if disabled and account.id == caller.account_id:
            raise Conflict("nobody disables their own account")
        changes: dict[str, object] = {
            "name": None if name is None else checked_name(name),
            "plan": None if plan is None else self._checked_plan(plan),
            "disabled": disabled,
            "limits": None if limits is None else checked_limits(limits, "limits"),
        }
        changes = {field: value for field, value in changes.items() if value is not None}
        if plan is not None and plan != account.plan:
            changes["plan_start_time"] = self._acts.now() if plan else None
        if not changes:
            return account
        told = {field: value for field, value in changes.items() if field in ("name", "plan", "disabled")}
        audit = self._acts.entry(caller, account.id, "account.update", account.id, changed=sorted(changes), **told)
        account = _found(await self._store.accounts.update(account.id, changes, audit), account_id)
        self._authenticator.forget_account(account.id)
        logger.info("account changed", account_id=account.id, by=actor(caller))
        return account

    async def delete(self, caller: Caller, account_id: str) -> None:
        """Erases an account and every row of it; the audit entries stay. Needs OPERATOR.

        Raises:
            Conflict: If it is `default`, or the caller's own.
        """
        seen_account(caller, account_id)
        require(caller, KeyRole.KEY_ROLE_OPERATOR)
        if account_id in (DEFAULT_ACCOUNT, caller.account_id):
            raise Conflict(f"account {account_id!r} cannot be erased: it is the server's, or your own")
        audit = self._acts.entry(caller, account_id, "account.delete", account_id)
        if not await self._store.accounts.erase(account_id, audit):
            raise _missing(account_id)
        self._authenticator.forget_account(account_id)
        logger.info("account erased", account_id=account_id, by=actor(caller))

    async def audit_entries(
        self, caller: Caller, page_size: int = 0, page_token: str = "", *, account_id: str = ""
    ) -> tuple[list[AuditRecord], str]:
        """Returns the next audit entries of an account, newest first, and the token of the page after. Needs ADMIN.

        Raises:
            InvalidRequest: If the size is negative, or the token is not of this account.
        """
        account_id = managed_account(caller, account_id)
        size = paging.page_size(page_size)
        scope = f"audit {account_id}"
        before = next(iter(paging.decode_token(scope, page_token, str)), None)
        found = await self._store.audit.page(account_id, limit=size + 1, before=None if before is None else str(before))
        token = paging.encode_token(scope, found[size - 1].id) if len(found) > size else ""
        return found[:size], token

    def _checked_plan(self, plan: str) -> str:
        if plan and plan not in self._plans:
            known = ", ".join(self._plans) or "none"
            raise InvalidRequest(f"plan {plan[:64]!r} does not exist; there are: {known}", field="plan")
        return plan


def _found(account: AccountRecord | None, account_id: str) -> AccountRecord:
    if account is None:
        raise _missing(account_id)
    return account


def _missing(account_id: str) -> NotFound:
    return NotFound(f"account {account_id[:64]!r} does not exist")
