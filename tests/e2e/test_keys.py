"""Keys and their service over every channel: in-process, TCP, Unix socket."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from dragoman.v1 import account_service_pb2 as pb
from dragoman.v1 import account_service_pb2_grpc as rpc
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.api.account import AccountServicer
from dragoman_server.api.interceptors import HEALTH_METHODS, REFLECTION_METHODS, AuthInterceptor, caller_of, caller_var
from dragoman_server.api.permissions import PERMISSIONS, Permission
from dragoman_server.errors import Unavailable
from dragoman_server.inprocess import InProcessServer
from dragoman_server.store.database import open_store, sqlite_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dragoman_server.store.base import Store
    from dragoman_server.store.identity.records import KeyRecord

TIMEOUT = 20.0
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


@dataclass(frozen=True)
class Rig:
    """A server with keys, and a channel to it."""

    store: Store
    accounts: Accounts
    channel: grpc.aio.Channel
    admin: str

    @property
    def service(self) -> Any:
        return rpc.AccountServiceStub(self.channel)

    async def probe(self, kind: str, metadata: Any) -> bytes:
        """Calls a method of the kind that answers the id of the key it was called with."""
        path = f"/test.Probe/{kind}"
        options = {"metadata": metadata, "timeout": TIMEOUT}
        channel: Any = self.channel  # its types leave no room for messages that are bytes
        if kind == "UnaryUnary":
            return bytes(await channel.unary_unary(path)(b"x", **options))
        if kind == "StreamUnary":
            return bytes(await channel.stream_unary(path)(one_request(), **options))
        if kind == "UnaryStream":
            stream = channel.unary_stream(path)(b"x", **options)
        else:
            stream = channel.stream_stream(path)(one_request(), **options)
        return b"".join([message async for message in stream])


async def one_request() -> AsyncIterator[bytes]:
    """Sends one message and no end: a client that still sends when the server ends the call may miss the status."""
    yield b"x"
    await asyncio.Event().wait()


async def one(_request: Any, _context: Any) -> bytes:
    return caller_of().key_id.encode()


async def many(_request: Any, _context: Any) -> AsyncIterator[bytes]:
    yield caller_of().key_id.encode()


def handlers() -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        "test.Probe",
        {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(one),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(many),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(one),
            "StreamStream": grpc.stream_stream_rpc_method_handler(many),
        },
    )


@asynccontextmanager
async def running(kind: str, accounts: Accounts) -> AsyncIterator[grpc.aio.Channel]:
    probes = {f"/test.Probe/{kind}": Permission() for kind in KINDS}
    interceptors = [AuthInterceptor(accounts, HEALTH_METHODS | REFLECTION_METHODS, {**PERMISSIONS, **probes})]
    server: Any = (
        InProcessServer(interceptors, max_message_bytes=2**20)
        if kind == "in-process"
        else grpc.aio.server(interceptors=interceptors)
    )
    rpc.add_AccountServiceServicer_to_server(AccountServicer(accounts), server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)  # type: ignore[no-untyped-call]
    server.add_generic_rpc_handlers((handlers(),))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        if kind == "in-process":
            channel: grpc.aio.Channel = server.channel()
        elif kind == "tcp":
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dgm-", dir="/tmp"))
            server.add_insecure_port(f"unix:{folder}/socket")
            await server.start()
            channel = grpc.aio.insecure_channel(f"unix:{folder}/socket")
        yield await stack.enter_async_context(channel)


@pytest.fixture(params=["in-process", "tcp", "unix"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    store = open_store(sqlite_url(tmp_path / "x.db"))
    try:
        await store.migrate()
        accounts = Accounts(store)
        admin = await accounts.keys.bootstrap()
        assert admin is not None
        async with running(request.param, accounts) as channel:
            yield Rig(store, accounts, channel, admin)
    finally:
        await store.close()


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Returns code and reason of a call that must fail; checks that its details say what its status says."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    error = failed.value
    trailing = dict(error.trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailing, error
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert info.domain == "dragoman"
    return error.code(), info.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_a_good_key_opens_methods_of_every_kind(rig: Rig, kind: str, header: str) -> None:
    key, secret = await rig.accounts.keys.create(operator(), "mine")
    value = f"bearer {secret}" if header == "authorization" else secret
    for _ in range(2):  # unknown to the cache, then known
        assert await rig.probe(kind, ((header, value),)) == key.id.encode()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_key_opens_nothing_and_says_why(rig: Rig, kind: str) -> None:
    key, secret = await rig.accounts.keys.create(operator(), "mine")
    await rig.probe(kind, bearer(secret))
    await rig.accounts.keys.revoke(operator(), key.id)
    for metadata, reason in (
        ((), "API_KEY_MISSING"),
        (bearer("wrong"), "API_KEY_INVALID"),
        ((("authorization", "Basic eDp5"),), "API_KEY_INVALID"),
        ((("x-api-key", "other"), *bearer(rig.admin)), "API_KEY_INVALID"),
        (bearer(secret), "API_KEY_REVOKED"),
    ):
        assert await refusal(rig.probe(kind, metadata)) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert await rig.probe(kind, bearer(rig.admin))


async def test_a_store_that_is_away_is_no_wrong_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(secret_hash: bytes) -> KeyRecord | None:
        raise Unavailable("the database is too busy; try again")

    monkeypatch.setattr(rig.store.identity.keys, "find", find)
    for kind in KINDS:
        assert (await refusal(rig.probe(kind, bearer("some key"))))[1] == "OVERLOADED"


async def test_a_fault_of_ours_ends_the_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(secret_hash: bytes) -> KeyRecord | None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(rig.store.identity.keys, "find", find)
    for kind in KINDS:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rig.probe(kind, bearer("some key"))
        assert failed.value.code() is grpc.StatusCode.UNKNOWN


async def test_health_needs_no_key(rig: Rig) -> None:
    health: Any = health_pb2_grpc.HealthStub(rig.channel)  # type: ignore[no-untyped-call]
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    answer = await health.Check(health_pb2.HealthCheckRequest(), metadata=bearer("wrong"), timeout=TIMEOUT)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async for answer in health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT):
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        break


@pytest.mark.parametrize("metadata", [(), bearer("wrong")])
async def test_an_unknown_method_is_unimplemented(rig: Rig, metadata: Any) -> None:
    channel: Any = rig.channel
    for path in ("/test.Probe/Other", "/grpc.health.v1.Health/Other", "/x/y"):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(path)(b"", metadata=metadata, timeout=TIMEOUT)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_every_call_has_its_own_caller_and_none_leaks(rig: Rig) -> None:
    made = [await rig.accounts.keys.create(operator(), f"key {number}") for number in range(8)]

    async def call(number: int) -> None:
        key, secret = made[number % len(made)]
        assert await rig.probe(KINDS[number % 3], bearer(secret)) == key.id.encode()

    await asyncio.gather(*map(call, range(48)))
    assert caller_var.get(None) is None


async def test_the_life_of_a_key(rig: Rig) -> None:
    admin = {"metadata": bearer(rig.admin), "timeout": TIMEOUT}
    expire_time = Timestamp(seconds=4_000_000_000, nanos=123_456_000)
    request = pb.CreateKeyRequest(name="CI", role=pb.KEY_ROLE_MEMBER, expire_time=expire_time)
    made = await rig.service.CreateKey(request, **admin)
    assert made.secret.startswith(made.key.prefix)
    assert (made.key.name, made.key.role, made.key.expire_time) == ("CI", pb.KEY_ROLE_MEMBER, expire_time)
    assert made.key.create_time.seconds > 1_700_000_000
    assert not made.key.HasField("revoke_time")

    mine = {"metadata": bearer(made.secret), "timeout": TIMEOUT}
    caller = await rig.service.GetCaller(pb.GetCallerRequest(), **mine)
    assert (caller.account_id, caller.key) == ("default", made.key)

    listed = await rig.service.ListKeys(pb.ListKeysRequest(), **admin)
    assert [key.name for key in listed.keys] == ["first key", "CI"]
    assert listed.keys[1] == made.key
    assert listed.next_page_token == ""

    for _ in range(2):
        revoked = await rig.service.RevokeKey(pb.RevokeKeyRequest(key_id=made.key.id), **admin)
        assert revoked.key.HasField("revoke_time")
    assert await refusal(rig.service.GetCaller(pb.GetCallerRequest(), **mine)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "API_KEY_REVOKED",
    )


async def test_pages_over_the_wire(rig: Rig) -> None:
    admin = {"metadata": bearer(rig.admin), "timeout": TIMEOUT}
    for number in range(4):
        await rig.service.CreateKey(pb.CreateKeyRequest(name=str(number)), **admin)
    names: list[str] = []
    token = ""
    for size in (2, 2, 1):
        page = await rig.service.ListKeys(pb.ListKeysRequest(page_size=2, page_token=token), **admin)
        assert len(page.keys) == size
        names += [key.name for key in page.keys]
        token = page.next_page_token
    assert token == ""
    assert names == ["first key", "0", "1", "2", "3"]


async def test_a_member_may_not_manage(rig: Rig) -> None:
    key, secret = await rig.accounts.keys.create(operator(), "member")
    mine = {"metadata": bearer(secret), "timeout": TIMEOUT}
    for call in (
        rig.service.CreateKey(pb.CreateKeyRequest(name="x"), **mine),
        rig.service.ListKeys(pb.ListKeysRequest(), **mine),
        rig.service.RevokeKey(pb.RevokeKeyRequest(key_id=key.id), **mine),
    ):
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CreateKey", pb.CreateKeyRequest()),
        ("CreateKey", pb.CreateKeyRequest(name="x\ny")),
        ("CreateKey", pb.CreateKeyRequest(name="x", role=17)),  # type: ignore[arg-type]
        ("CreateKey", pb.CreateKeyRequest(name="x", expire_time=Timestamp(seconds=1))),
        ("CreateKey", pb.CreateKeyRequest(name="x", expire_time=Timestamp(seconds=2**62))),
        ("CreateKey", pb.CreateKeyRequest(name="x", expire_time=Timestamp(seconds=4_000_000_000, nanos=-1))),
        ("ListKeys", pb.ListKeysRequest(page_size=-1)),
        ("ListKeys", pb.ListKeysRequest(page_token="nonsense")),
    ],
)
async def test_bad_requests_are_named(rig: Rig, method: str, request_: Any) -> None:
    call = getattr(rig.service, method)(request_, metadata=bearer(rig.admin), timeout=TIMEOUT)
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize("key_id", ["", "key_", "key_" + "0" * 32, "x\0y", "'; DROP TABLE api_keys; --"])
async def test_an_unknown_key_is_not_found(rig: Rig, key_id: str) -> None:
    call = rig.service.RevokeKey(pb.RevokeKeyRequest(key_id=key_id), metadata=bearer(rig.admin), timeout=TIMEOUT)
    assert await refusal(call) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
