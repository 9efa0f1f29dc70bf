"""`dragoman.v1.AccountService`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1 import account_service_pb2_grpc as rpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.api.times import micros_of, timestamp

if TYPE_CHECKING:
    import grpc

    from dragoman_server.accounts.logins import LoginTokens
    from dragoman_server.accounts.service import Accounts
    from dragoman_server.ratelimits.service import RateLimits
    from dragoman_server.store.identity.records import AccountRecord, AuditRecord, KeyRecord, UserRecord

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")


class AccountServicer(rpc.AccountServiceServicer):
    """Serves the accounts, their users and their credentials.

    Args:
        accounts: The accounts.
        limits: How much callers may ask for, if there are limits.
    """

    def __init__(self, accounts: Accounts, limits: RateLimits | None = None) -> None:
        self._accounts = accounts
        self._limits = limits

    @mapped
    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.GetCallerResponse:
        caller = caller_of()
        response = pb.GetCallerResponse(account_id=caller.account_id)
        if caller.key_id:
            response.key.CopyFrom(_key(await self._accounts.keys.get(caller, caller.key_id)))
        if caller.user_id:
            response.user.CopyFrom(_user(await self._accounts.users.get(caller)))
        if self._limits is not None and (state := await self._limits.state_of(caller)) is not None:
            response.rate_state.CopyFrom(state)
        return response

    # Keys

    @mapped
    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        key, secret = await self._accounts.keys.create(
            caller_of(),
            request.name,
            request.role,
            micros_of(request, "expire_time"),
            _given(request, "grants", request.grants),
            account_id=request.account_id,
            user_id=request.user_id,
        )
        return pb.CreateKeyResponse(key=_key(key), secret=secret)

    @mapped
    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        keys, token = await self._accounts.keys.page(
            caller_of(), request.page_size, request.page_token, account_id=request.account_id
        )
        return pb.ListKeysResponse(keys=map(_key, keys), next_page_token=token)

    @mapped
    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Context) -> pb.UpdateKeyResponse:
        key = await self._accounts.keys.update(
            caller_of(),
            request.key_id,
            name=_given(request, "name", request.name),
            disabled=_given(request, "disabled", request.disabled),
            grants=_given(request, "grants", request.grants),
            expire_time=micros_of(request, "expire_time"),
            account_id=request.account_id,
        )
        return pb.UpdateKeyResponse(key=_key(key))

    @mapped
    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        key = await self._accounts.keys.revoke(caller_of(), request.key_id, account_id=request.account_id)
        return pb.RevokeKeyResponse(key=_key(key))

    # Accounts

    @mapped
    async def CreateAccount(self, request: pb.CreateAccountRequest, context: Context) -> pb.CreateAccountResponse:
        account = await self._accounts.tenants.create(
            caller_of(), request.name, request.account_id, request.plan, _given(request, "limits", request.limits)
        )
        return pb.CreateAccountResponse(account=_account(account))

    @mapped
    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:
        return pb.GetAccountResponse(
            account=_account(await self._accounts.tenants.get(caller_of(), request.account_id))
        )

    @mapped
    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Context) -> pb.ListAccountsResponse:
        accounts, token = await self._accounts.tenants.page(caller_of(), request.page_size, request.page_token)
        return pb.ListAccountsResponse(accounts=map(_account, accounts), next_page_token=token)

    @mapped
    async def UpdateAccount(self, request: pb.UpdateAccountRequest, context: Context) -> pb.UpdateAccountResponse:
        account = await self._accounts.tenants.update(
            caller_of(),
            request.account_id,
            name=_given(request, "name", request.name),
            plan=_given(request, "plan", request.plan),
            disabled=_given(request, "disabled", request.disabled),
            limits=_given(request, "limits", request.limits),
        )
        return pb.UpdateAccountResponse(account=_account(account))

    @mapped
    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Context) -> pb.DeleteAccountResponse:
        await self._accounts.tenants.delete(caller_of(), request.account_id)
        return pb.DeleteAccountResponse()

    @mapped
    async def ExportAccount(  # type: ignore[override]  # it writes its messages, and so is a coroutine
        self, request: pb.ExportAccountRequest, context: Context
    ) -> None:
        async with aclosing(self._accounts.exports.account(caller_of(), request.account_id)) as pieces:
            async for data in pieces:
                await context.write(pb.ExportAccountResponse(data=data))

    @mapped
    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        entries, token = await self._accounts.tenants.audit_entries(
            caller_of(), request.page_size, request.page_token, account_id=request.account_id
        )
        return pb.ListAuditEntriesResponse(entries=map(_entry, entries), next_page_token=token)

    # Users

    @mapped
    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.CreateUserResponse:
        user = await self._accounts.users.create(
            caller_of(), request.email, request.password, request.name, request.role, account_id=request.account_id
        )
        return pb.CreateUserResponse(user=_user(user))

    @mapped
    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        user = await self._accounts.users.get(caller_of(), request.user_id, account_id=request.account_id)
        return pb.GetUserResponse(user=_user(user))

    @mapped
    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        users, token = await self._accounts.users.page(
            caller_of(), request.page_size, request.page_token, account_id=request.account_id
        )
        return pb.ListUsersResponse(users=map(_user, users), next_page_token=token)

    @mapped
    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.UpdateUserResponse:
        user = await self._accounts.users.update(
            caller_of(),
            request.user_id,
            name=_given(request, "name", request.name),
            password=_given(request, "password", request.password),
            role=request.role,
            disabled=_given(request, "disabled", request.disabled),
            account_id=request.account_id,
        )
        return pb.UpdateUserResponse(user=_user(user))

    @mapped
    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        await self._accounts.users.delete(caller_of(), request.user_id, account_id=request.account_id)
        return pb.DeleteUserResponse()

    # Logins

    @mapped
    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        tokens, user = await self._accounts.logins.login(request.email, request.password)
        return pb.LoginResponse(tokens=_tokens(tokens), user=_user(user))

    @mapped
    async def RefreshLogin(self, request: pb.RefreshLoginRequest, context: Context) -> pb.RefreshLoginResponse:
        return pb.RefreshLoginResponse(tokens=_tokens(await self._accounts.logins.refresh(request.refresh_token)))

    @mapped
    async def Logout(self, request: pb.LogoutRequest, context: Context) -> pb.LogoutResponse:
        await self._accounts.logins.logout(request.refresh_token)
        return pb.LogoutResponse()


def _given(request: Any, field: str, value: T) -> T | None:
    """Returns the value of an optional field, None if it was not given."""
    return value if request.HasField(field) else None


def _key(key: KeyRecord) -> pb.Key:
    return pb.Key(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        role=key.role,
        create_time=timestamp(key.create_time),
        expire_time=timestamp(key.expire_time),
        revoke_time=timestamp(key.revoke_time),
        grants=key.grants,
        disabled=key.disabled,
        user_id=key.user_id or "",
    )


def _account(account: AccountRecord) -> pb.Account:
    return pb.Account(
        id=account.id,
        name=account.name,
        plan=account.plan,
        disabled=account.disabled,
        create_time=timestamp(account.create_time),
        limits=account.limits,
    )


def _user(user: UserRecord) -> pb.User:
    return pb.User(
        id=user.id,
        account_id=user.account_id,
        email=user.email or "",
        name=user.name,
        subject=user.subject or "",
        role=user.role,
        disabled=user.disabled,
        create_time=timestamp(user.create_time),
    )


def _entry(entry: AuditRecord) -> pb.AuditEntry:
    return pb.AuditEntry(
        id=entry.id,
        create_time=timestamp(entry.create_time),
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        details_json=entry.details,
        account_id=entry.account_id,
    )


def _tokens(tokens: LoginTokens) -> pb.LoginTokens:
    return pb.LoginTokens(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expire_time=timestamp(tokens.expire_time),
    )
