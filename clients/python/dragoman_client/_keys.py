"""API keys."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import grpc

    from dragoman_client._calls import Caller


class Keys:
    """Manages the keys of an account, one's own if none is named; all but `caller` need the role ADMIN.

    Every method raises `DragomanClientError` if its call fails.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = AccountServiceStub(channel)
        self._caller = caller

    async def caller(self) -> pb.GetCallerResponse:
        """Tells whose credential this client uses."""
        return await self._caller.quick(self._stub.GetCaller, pb.GetCallerRequest())

    async def create(
        self,
        name: str,
        *,
        role: pb.KeyRole = pb.KeyRole.KEY_ROLE_MEMBER,
        expire_time: datetime | None = None,
        grants: pb.KeyGrants | None = None,
        user_id: str = "",
        account_id: str = "",
    ) -> pb.CreateKeyResponse:
        """Makes a key; its `secret` is in the answer and cannot be had again.

        Args:
            name: What the key is for.
            role: What it may do.
            expire_time: When it stops working; a time with a zone. None for never.
            grants: What it is restricted to.
            user_id: The user whose key it is; empty for none.
            account_id: The account.
        """
        request = pb.CreateKeyRequest(name=name, role=role, grants=grants, user_id=user_id, account_id=account_id)
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        return await self._caller.quick(self._stub.CreateKey, request)

    def list(self, *, account_id: str = "") -> AsyncIterator[pb.Key]:
        """Yields the keys, oldest first, revoked and expired ones included."""
        request = partial(pb.ListKeysRequest, account_id=account_id)
        return self._caller.pages(self._stub.ListKeys, request, "keys")

    async def update(
        self,
        key_id: str,
        *,
        name: str | None = None,
        disabled: bool | None = None,
        expire_time: datetime | None = None,
        grants: pb.KeyGrants | None = None,
        account_id: str = "",
    ) -> pb.Key:
        """Changes what is given of a key."""
        request = pb.UpdateKeyRequest(key_id=key_id, name=name, disabled=disabled, grants=grants, account_id=account_id)
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        return (await self._caller.quick(self._stub.UpdateKey, request)).key

    async def revoke(self, key_id: str, *, account_id: str = "") -> pb.Key:
        """Revokes a key. Repeatable."""
        request = pb.RevokeKeyRequest(key_id=key_id, account_id=account_id)
        return (await self._caller.quick(self._stub.RevokeKey, request)).key
