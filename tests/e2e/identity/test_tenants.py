"""Tenants: whoever asks, by whatever method of the contract, sees and changes nothing of another account.

The methods are enumerated from the contract, so that one that comes later is tried too.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from dragoman.v1 import account_service_pb2 as accounts_pb
from dragoman.v1 import conversation_service_pb2 as conversations_pb
from dragoman.v1 import credit_service_pb2 as credits_pb
from dragoman.v1 import persona_service_pb2 as personas_pb
from dragoman.v1 import run_service_pb2 as runs_pb
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman.v1.message_pb2 import Message as ChatMessage
from dragoman.v1.message_pb2 import Part, Role, TextPart
from dragoman.v1.run_pb2 import DisconnectPolicy
from dragoman_server.accounts.keys import operator
from dragoman_server.api.permissions import PERMISSIONS, Permission
from dragoman_server.api.server import SERVICES
from tests.support.core import METADATA, running_core

MARK = "a-secret-of-the-other-account"
NOT_FOUND, FORBIDDEN = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
TIMEOUT = 20.0


def methods() -> Iterator[Any]:
    """Yields the descriptors of all methods of all services."""
    for service in SERVICES:
        name = service.rpartition(".")[2].removesuffix("Service").lower()
        module = importlib.import_module(f"dragoman.v1.{name}_service_pb2")
        yield from module.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods


METHODS = {f"/{method.containing_service.full_name}/{method.name}": method for method in methods()}


def test_every_method_has_a_permission_and_every_permission_a_method() -> None:
    assert set(PERMISSIONS) == set(METHODS)
    public = {method.rpartition("/")[2] for method, permission in PERMISSIONS.items() if permission.public}
    assert public == {"Login", "RefreshLogin", "Logout"}


@dataclass
class House:
    """A core with two accounts, and the ids of what one of them has."""

    channel: Any
    ids: dict[str, str]
    secrets: dict[KeyRole, str]

    async def call(self, path: str, request: Message, metadata: Any) -> list[Any]:
        """Calls a method; returns all of its answers."""
        method = METHODS[path]
        kind = GetMessageClass(method.output_type)
        options = {"metadata": metadata, "timeout": TIMEOUT}
        codec = {"request_serializer": type(request).SerializeToString, "response_deserializer": kind.FromString}
        if not method.server_streaming:
            return [await self.channel.unary_unary(path, **codec)(request, **options)]
        return [message async for message in self.channel.unary_stream(path, **codec)(request, **options)]


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def said(text: str) -> ChatMessage:
    return ChatMessage(role=Role.ROLE_USER, parts=[Part(text=TextPart(text=text))])


def new_message(text: str) -> conversations_pb.NewMessage:
    return conversations_pb.NewMessage(message=said(text))


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with running_core() as core:
        house = House(core.channel(), {"account_id": "other"}, {})
        keys = core.accounts.keys
        for account_id in ("acme", "other"):
            await core.accounts.tenants.create(operator(), account_id, account_id)
        for role in (KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN):
            _, house.secrets[role] = await keys.create(operator("acme"), "k", role)
        key, secret = await keys.create(operator("other"), MARK, KeyRole.KEY_ROLE_ADMIN)
        user = await core.accounts.users.create(operator("other"), f"{MARK}@other.test", name=MARK)
        await fill(house, bearer(secret))
        house.ids |= {"key_id": key.id, "user_id": user.id}
        yield house


async def fill(house: House, theirs: Any) -> None:
    """Gives the other account something of each kind."""
    start = runs_pb.StartRunRequest()
    start.spec.chat.messages.append(said(MARK))
    start.spec.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH
    (started,) = await house.call("/dragoman.v1.RunService/StartRun", start, theirs)
    conversation = conversations_pb.CreateConversationRequest(title=MARK)
    (created,) = await house.call("/dragoman.v1.ConversationService/CreateConversation", conversation, theirs)
    conversation_id = created.conversation.id
    append = conversations_pb.AppendMessagesRequest(conversation_id=conversation_id, messages=[new_message(MARK)])
    (appended,) = await house.call("/dragoman.v1.ConversationService/AppendMessages", append, theirs)
    persona = personas_pb.SavePersonaRequest(persona=personas_pb.Persona(name=MARK, system_prompt=MARK))
    await house.call("/dragoman.v1.PersonaService/SavePersona", persona, theirs)
    grant = credits_pb.GrantCreditsRequest(account_id="other", amount_micros=7, note=MARK)
    await house.call("/dragoman.v1.CreditService/GrantCredits", grant, METADATA)
    house.ids |= {
        "run_id": started.run.id,
        "conversation_id": conversation_id,
        "message_id": appended.messages[0].id,
        "name": MARK,
    }


OWN_MEANING = frozenset({"request_id", "model_id", "short_id", "client_id"})
"""Fields whose names look like ids, and that name nothing of an account."""
IDS = frozenset({"account_id", "key_id", "user_id", "run_id", "conversation_id", "message_id"})
NAMED_BY_NAME = {"/dragoman.v1.PersonaService/GetPersona", "/dragoman.v1.PersonaService/DeletePersona"}


def named(path: str, kind: type[Message]) -> list[str]:
    """Returns the fields of a request that name something of an account."""
    fields = [f.name for f in kind.DESCRIPTOR.fields if f.type == FieldDescriptor.TYPE_STRING and not f.is_repeated]
    unknown = [name for name in fields if name.endswith("_id") and name not in IDS | OWN_MEANING]
    assert unknown == [], f"say in this test what {unknown} of {path} name"
    return [name for name in fields if name in IDS or (name == "name" and path in NAMED_BY_NAME)]


FILTERS = {("UsageService", "key_id"), ("UsageService", "user_id"), ("CreditService", "run_id")}
"""Where an id only narrows a list: what matches nothing gives an empty one."""


@pytest.mark.parametrize("role", [KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN], ids=["member", "admin"])
@pytest.mark.parametrize("path", METHODS)
async def test_what_is_anothers_does_not_exist(house: House, path: str, role: KeyRole) -> None:
    kind = GetMessageClass(METHODS[path].input_type)
    mine = bearer(house.secrets[role])
    service = path.split("/")[1].rpartition(".")[2]
    for field in named(path, kind):
        request = example(kind)
        setattr(request, field, house.ids[field])
        if field == "account_id":
            for other in named(path, kind):
                setattr(request, other, house.ids[other])
        if PERMISSIONS[path].role > role:
            assert await code_of(house, path, request, mine) == FORBIDDEN
        elif (service, field) in FILTERS:
            (answer,) = await house.call(path, request, mine)
            assert MARK not in str(answer)
        else:
            assert await code_of(house, path, request, mine) == NOT_FOUND, field


@pytest.mark.parametrize("path", METHODS)
async def test_what_is_listed_is_ones_own(house: House, path: str) -> None:
    permission = PERMISSIONS[path]
    kind = GetMessageClass(METHODS[path].input_type)
    if permission.public or permission.role == KeyRole.KEY_ROLE_OPERATOR:
        return
    admin = bearer(house.secrets[KeyRole.KEY_ROLE_ADMIN])
    assert await code_of(house, path, example(kind), admin) in (None, grpc.StatusCode.INVALID_ARGUMENT, NOT_FOUND)


@pytest.mark.parametrize("path", METHODS)
async def test_nothing_is_done_without_the_scope(house: House, path: str) -> None:
    permission = PERMISSIONS[path]
    if permission == Permission() or permission.public:
        return
    pb = accounts_pb
    other = "usage" if not permission.scope.startswith("usage") else "models"
    grants = pb.KeyGrants(scopes=[other, permission.scope + ".read"])  # reading does not permit more
    if permission.scope.endswith(".read"):
        grants = pb.KeyGrants(scopes=[other])
    grant = pb.CreateKeyRequest(name="k", role=KeyRole.KEY_ROLE_OPERATOR, account_id="acme", grants=grants)
    (made,) = await house.call("/dragoman.v1.AccountService/CreateKey", grant, METADATA)
    request = example(GetMessageClass(METHODS[path].input_type))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await house.call(path, request, bearer(made.secret))
    assert refused.value.code() == FORBIDDEN
    assert f"`{permission.scope}`" in (refused.value.details() or "")


async def code_of(house: House, path: str, request: Message, metadata: Any) -> grpc.StatusCode | None:
    """Returns what a call is refused with, None if it is not; it tells of the other account only what it was told."""
    code: grpc.StatusCode | None = None
    try:
        told = str(await house.call(path, request, metadata))
    except grpc.aio.AioRpcError as error:
        code, told = error.code(), error.details() or ""
    assert MARK not in told or (MARK in str(request) and code is not None)
    return code


def example(kind: type[Message]) -> Any:
    """Returns a request that is good but for what it names."""
    request: Any = kind()
    fields: Any = kind.DESCRIPTOR.fields_by_name
    if "title" in fields:
        request.title = "x"
    if "name" in fields:
        request.name = "x"
    if "email" in fields:
        request.email = "new@acme.test"
    if "amount_micros" in fields:
        request.amount_micros = 1
    if "messages" in fields and fields["messages"].message_type.full_name == "dragoman.v1.NewMessage":
        request.messages.append(new_message("x"))
    return request
