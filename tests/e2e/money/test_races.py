"""Many callers at once, on two servers with one database: nobody spends what is not there, and no turn is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pydantic import SecretStr

from dragoman.v1.conversation_service_pb2 import (
    AppendMessagesRequest,
    CreateConversationRequest,
    ListMessagesRequest,
    StoredMessage,
)
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.credit_service_pb2 import GrantCreditsRequest, LedgerEntry, ListBalancesRequest
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import RunSpec
from dragoman.v1.run_service_pb2 import StreamRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.providers.scripted import Script
from dragoman_server.settings import CreditPriceSettings, CreditSettings, StoreSettings
from dragoman_server.store.database import open_store, sqlite_url
from tests.support.core import METADATA, channel_to, running_core
from tests.support.credits import check_sums
from tests.support.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["postgres_server", "postgres_url"]

PRICE = 100
RUNS, PAID = 64, 23
TURNS = 200
TIMEOUT = 60.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return sqlite_url(tmp_path / "dragoman.db")


@pytest.fixture
async def channels(url: str) -> AsyncIterator[list[Any]]:
    """Channels to two cores that have one database."""
    prices = (CreditPriceSettings(request_micros=PRICE),)
    sections = {
        "store": StoreSettings(url=SecretStr(url)),
        "credits": CreditSettings(enabled=True, prices=prices),
    }
    async with AsyncExitStack() as stack:
        cores = [await stack.enter_async_context(running_core(**sections)) for _ in range(2)]
        yield [await stack.enter_async_context(channel_to(core, "tcp")) for core in cores]


async def run(channel: Any, spec: RunSpec) -> grpc.StatusCode:
    """Streams a run; returns what became of it."""
    try:
        async for batch in RunServiceStub(channel).StreamRun(
            StreamRunRequest(spec=spec), metadata=METADATA, timeout=TIMEOUT
        ):
            last = batch.events[-1]
    except grpc.aio.AioRpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    assert last.HasField("run_completed"), last
    return grpc.StatusCode.OK


def spec_of(text: str, conversation_id: str = "", **members: Any) -> RunSpec:
    spec = RunSpec()
    spec.chat.model = "demo/echo"
    spec.chat.conversation_id = conversation_id
    script = Script(text=(text,), **members).model_dump_json(exclude_defaults=True)
    spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = f"SCRIPT {script}"
    return spec


async def grant(channel: Any, micros: int) -> None:
    request = GrantCreditsRequest(account_id="default", amount_micros=micros)
    await CreditServiceStub(channel).GrantCredits(request, metadata=METADATA, timeout=TIMEOUT)


async def test_exactly_as_many_runs_as_the_balance_buys(channels: list[Any], url: str) -> None:
    await grant(channels[0], PRICE * PAID + PRICE - 1)
    ends = await asyncio.gather(*(run(channels[n % 2], spec_of("hello", first_delay=0.2)) for n in range(RUNS)))
    assert Counter(ends) == {grpc.StatusCode.OK: PAID, grpc.StatusCode.FAILED_PRECONDITION: RUNS - PAID}
    for channel in channels:
        answer = await CreditServiceStub(channel).ListBalances(ListBalancesRequest(), metadata=METADATA)
        assert [(found.available_micros, found.held_micros) for found in answer.balances] == [(PRICE - 1, 0)]
    store = open_store(url)
    await check_sums(store)
    entries = await store.ledger.entries("default", limit=10_000)
    assert Counter(entry.kind for entry in entries)[LedgerEntry.KIND_CHARGE] == PAID
    await store.close()


async def test_no_turn_of_one_conversation_is_lost(channels: list[Any]) -> None:
    await grant(channels[0], PRICE * TURNS)
    conversations = [ConversationServiceStub(channel) for channel in channels]
    made = await conversations[0].CreateConversation(CreateConversationRequest(), metadata=METADATA)
    name = made.conversation.id
    ends = await asyncio.gather(*(run(channels[n % 2], spec_of(f"answer {n}", name)) for n in range(TURNS)))
    assert Counter(ends) == {grpc.StatusCode.OK: TURNS}
    for stub in conversations:
        found = await messages_of(stub, name)
        questions, answers = found[::2], found[1::2]
        assert {answer.message.parts[0].text.text for answer in answers} == {f"answer {n}" for n in range(TURNS)}
        assert len(found) == 2 * TURNS
        for question, answer in zip(questions, answers, strict=True):  # turns stay whole
            assert (question.message.role, answer.message.role) == (Role.ROLE_USER, Role.ROLE_ASSISTANT)
            assert f'"{answer.message.parts[0].text.text}"' in question.message.parts[0].text.text


async def test_no_appended_message_is_lost(channels: list[Any]) -> None:
    conversations = [ConversationServiceStub(channel) for channel in channels]
    made = await conversations[0].CreateConversation(CreateConversationRequest(), metadata=METADATA)
    name = made.conversation.id

    async def append(number: int) -> str:
        request = AppendMessagesRequest(conversation_id=name)
        message = request.messages.add().message
        message.role = Role.ROLE_USER
        message.parts.add().text.text = str(number)
        answer = await conversations[number % 2].AppendMessages(request, metadata=METADATA, timeout=TIMEOUT)
        return str(answer.messages[0].id)

    ids = await asyncio.gather(*map(append, range(TURNS)))
    found = await messages_of(conversations[0], name)
    assert sorted(message.id for message in found) == sorted(ids)
    assert {message.message.parts[0].text.text for message in found} == {str(number) for number in range(TURNS)}
    assert [message.parent_id for message in found] == ["", *(message.id for message in found[:-1])]


async def messages_of(stub: Any, name: str) -> list[StoredMessage]:
    """Returns all messages of a conversation, page by page."""
    found: list[StoredMessage] = []
    request = ListMessagesRequest(conversation_id=name, page_size=150)
    while True:
        page = await stub.ListMessages(request, metadata=METADATA, timeout=TIMEOUT)
        found += page.messages
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
