"""Accounts, their users, and logins with name and password."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman_client._errors import error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_client._calls import Caller


class Accounts:
    """Manages accounts, the tenants; all but `get`, `export` and `audit` need a credential with the role OPERATOR.

    Every method raises `DragomanClientError` if its call fails.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = AccountServiceStub(channel)
        self._caller = caller

    async def create(
        self, name: str, *, account_id: str = "", plan: str = "", limits: pb.RateLimits | None = None
    ) -> pb.Account:
        """Makes an account.

        Args:
            name: What it is called.
            account_id: Its id, as an identity provider has it; empty for one of the server's making.
            plan: The plan that it is subscribed to.
            limits: Its own limits.
        """
        request = pb.CreateAccountRequest(name=name, account_id=account_id, plan=plan, limits=limits)
        return (await self._caller.quick(self._stub.CreateAccount, request)).account

    async def get(self, account_id: str = "") -> pb.Account:
        """Returns an account; one's own if none is named."""
        return (await self._caller.quick(self._stub.GetAccount, pb.GetAccountRequest(account_id=account_id))).account

    def list(self) -> AsyncIterator[pb.Account]:
        """Yields all accounts, oldest first."""
        return self._caller.pages(self._stub.ListAccounts, pb.ListAccountsRequest, "accounts")

    async def update(
        self,
        account_id: str,
        *,
        name: str | None = None,
        plan: str | None = None,
        disabled: bool | None = None,
        limits: pb.RateLimits | None = None,
    ) -> pb.Account:
        """Changes what is given of an account; an empty plan ends the subscription."""
        request = pb.UpdateAccountRequest(account_id=account_id, name=name, plan=plan, disabled=disabled, limits=limits)
        return (await self._caller.quick(self._stub.UpdateAccount, request)).account

    async def delete(self, account_id: str) -> None:
        """Erases an account and every row of it."""
        await self._caller.quick(self._stub.DeleteAccount, pb.DeleteAccountRequest(account_id=account_id))

    async def export(self, account_id: str = "") -> AsyncIterator[bytes]:
        """Yields everything that is stored of an account, in pieces of lines of JSON; needs the role ADMIN."""
        call = self._stub.ExportAccount(pb.ExportAccountRequest(account_id=account_id), metadata=self._caller.metadata)
        try:
            async for response in call:
                yield response.data
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    def audit(self, account_id: str = "") -> AsyncIterator[pb.AuditEntry]:
        """Yields what administrators did in an account, newest first; needs the role ADMIN."""
        request = partial(pb.ListAuditEntriesRequest, account_id=account_id)
        return self._caller.pages(self._stub.ListAuditEntries, request, "entries")


class Users:
    """Manages the users of an account, one's own if none is named, and logs them in.

    All but `get`, `login`, `refresh` and `logout` need a credential with the role ADMIN. Every method raises
    `DragomanClientError` if its call fails.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = AccountServiceStub(channel)
        self._caller = caller

    async def create(
        self,
        email: str,
        *,
        password: str = "",
        name: str = "",
        role: pb.KeyRole = pb.KeyRole.KEY_ROLE_MEMBER,
        account_id: str = "",
    ) -> pb.User:
        """Makes a user; without a password, they cannot log in here."""
        request = pb.CreateUserRequest(email=email, password=password, name=name, role=role, account_id=account_id)
        return (await self._caller.quick(self._stub.CreateUser, request)).user

    async def get(self, user_id: str = "", *, account_id: str = "") -> pb.User:
        """Returns a user; oneself if none is named."""
        request = pb.GetUserRequest(user_id=user_id, account_id=account_id)
        return (await self._caller.quick(self._stub.GetUser, request)).user

    def list(self, *, account_id: str = "") -> AsyncIterator[pb.User]:
        """Yields the users, oldest first."""
        request = partial(pb.ListUsersRequest, account_id=account_id)
        return self._caller.pages(self._stub.ListUsers, request, "users")

    async def update(
        self,
        user_id: str,
        *,
        name: str | None = None,
        password: str | None = None,
        role: pb.KeyRole = pb.KeyRole.KEY_ROLE_UNSPECIFIED,
        disabled: bool | None = None,
        account_id: str = "",
    ) -> pb.User:
        """Changes what is given of a user. A new password, and being disabled, end all their logins."""
        request = pb.UpdateUserRequest(
            user_id=user_id, name=name, password=password, role=role, disabled=disabled, account_id=account_id
        )
        return (await self._caller.quick(self._stub.UpdateUser, request)).user

    async def delete(self, user_id: str, *, account_id: str = "") -> None:
        """Erases a user with their keys, logins and conversations."""
        request = pb.DeleteUserRequest(user_id=user_id, account_id=account_id)
        await self._caller.quick(self._stub.DeleteUser, request)

    async def login(self, email: str, password: str) -> pb.LoginResponse:
        """Exchanges name and password for tokens; make a client with the access token as its key."""
        return await self._caller.quick(self._stub.Login, pb.LoginRequest(email=email, password=password))

    async def refresh(self, refresh_token: str) -> pb.LoginTokens:
        """Exchanges a refresh token, which is then used up, for new tokens."""
        request = pb.RefreshLoginRequest(refresh_token=refresh_token)
        return (await self._caller.quick(self._stub.RefreshLogin, request)).tokens

    async def logout(self, refresh_token: str) -> None:
        """Ends the login that a refresh token belongs to. Repeatable."""
        await self._caller.quick(self._stub.Logout, pb.LogoutRequest(refresh_token=refresh_token))
