"""`dragoman.v1.AccountService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1 import account_service_pb2_grpc as rpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    import grpc

    from dragoman_server.accounts.service import Accounts
    from dragoman_server.store.base import KeyRecord

    Context = grpc.aio.ServicerContext[Any, Any]


class AccountServicer(rpc.AccountServiceServicer):
    """Serves the accounts and their keys."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    @mapped
    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.GetCallerResponse:
        """Tells whose key the call carries."""
        caller = caller_of()
        key = await self._accounts.get_key(caller, caller.key_id)
        return pb.GetCallerResponse(account_id=caller.account_id, key=_key(key))

    @mapped
    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """Makes a key."""
        expire_time = _micros(request.expire_time, "expire_time") if request.HasField("expire_time") else None
        key, secret = await self._accounts.create_key(caller_of(), request.name, request.role, expire_time)
        return pb.CreateKeyResponse(key=_key(key), secret=secret)

    @mapped
    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Lists the keys of the account."""
        keys, next_page_token = await self._accounts.list_keys(caller_of(), request.page_size, request.page_token)
        return pb.ListKeysResponse(keys=map(_key, keys), next_page_token=next_page_token)

    @mapped
    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        """Revokes a key."""
        return pb.RevokeKeyResponse(key=_key(await self._accounts.revoke_key(caller_of(), request.key_id)))


def _micros(time: Timestamp, field: str) -> int:
    try:
        return time.ToMicroseconds()
    except ValueError:
        raise InvalidRequest(f"{field} is no valid time", field=field) from None


def _timestamp(micros: int | None) -> Timestamp | None:
    if micros is None:
        return None
    time = Timestamp()
    time.FromMicroseconds(micros)
    return time


def _key(key: KeyRecord) -> pb.Key:
    return pb.Key(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        role=key.role,
        create_time=_timestamp(key.create_time),
        expire_time=_timestamp(key.expire_time),
        revoke_time=_timestamp(key.revoke_time),
    )
