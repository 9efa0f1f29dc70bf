"""API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import grpc

    from dragoman_client._calls import Caller


class Keys:
    """Manages keys; all but `caller` need a key with the role ADMIN.

    Every method raises `DragomanClientError` if its call fails.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = AccountServiceStub(channel)
        self._caller = caller

    async def caller(self) -> pb.GetCallerResponse:
        """Tells whose key this client uses."""
        return await self._caller.quick(self._stub.GetCaller, pb.GetCallerRequest())

    async def create(
        self, name: str, *, role: pb.KeyRole = pb.KeyRole.KEY_ROLE_MEMBER, expire_time: datetime | None = None
    ) -> pb.CreateKeyResponse:
        """Makes a key; its `secret` is in the answer and cannot be had again.

        Args:
            name: What the key is for.
            role: What it may do.
            expire_time: When it stops working; a time with a zone. None for never.
        """
        request = pb.CreateKeyRequest(name=name, role=role)
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        return await self._caller.quick(self._stub.CreateKey, request)

    def list(self) -> AsyncIterator[pb.Key]:
        """Yields the keys of the account, oldest first, revoked and expired ones included."""
        return self._caller.pages(self._stub.ListKeys, pb.ListKeysRequest, "keys")

    async def revoke(self, key_id: str) -> pb.Key:
        """Revokes a key. Repeatable."""
        return (await self._caller.quick(self._stub.RevokeKey, pb.RevokeKeyRequest(key_id=key_id))).key
