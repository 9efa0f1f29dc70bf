"""What runs cost, over every channel: what is reserved before, what is charged after, and when that is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.conversation_service_pb2 import CreateConversationRequest, ListMessagesRequest, StoredMessage
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.credit_service_pb2 import (
    GrantCreditsRequest,
    LedgerEntry,
    ListBalancesRequest,
    ListLedgerEntriesRequest,
)
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import HistoryMode, Run, RunSpec
from dragoman.v1.run_service_pb2 import CancelRunRequest, ExecuteRunRequest, GetRunRequest, StreamRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman.v1.usage_service_pb2 import ListUsageRequest
from dragoman.v1.usage_service_pb2_grpc import UsageServiceStub
from dragoman_server.settings import CreditPriceSettings, CreditSettings, RateLimitSettings, RateSettings
from tests.support.core import CHANNELS, METADATA, channel_to, running_core

CREDIT = 1_000_000
PRICES = (CreditPriceSettings(request_micros=5, input_micros_per_million=CREDIT, output_micros_per_million=CREDIT),)
"""5 for the request, 1 for each token."""
CREDITS = CreditSettings(enabled=True, prices=PRICES, max_output_tokens=100)
Kind = LedgerEntry.Kind


class Client:
    """The stubs of one core."""

    def __init__(self, channel: Any) -> None:
        self.runs = RunServiceStub(channel)
        self.credits = CreditServiceStub(channel)
        self.conversations = ConversationServiceStub(channel)
        self.usage = UsageServiceStub(channel)
        self.accounts = AccountServiceStub(channel)

    async def grant(self, micros: int) -> None:
        request = GrantCreditsRequest(account_id="default", amount_micros=micros)
        await self.credits.GrantCredits(request, metadata=METADATA)

    async def execute(self, spec: RunSpec, request_id: str = "") -> Run:
        request = ExecuteRunRequest(spec=spec, request_id=request_id)
        run: Run = (await self.runs.ExecuteRun(request, metadata=METADATA, timeout=20)).run
        return run

    async def balance(self) -> tuple[int, int]:
        answer = await self.credits.ListBalances(ListBalancesRequest(), metadata=METADATA)
        return (answer.balances[0].available_micros, answer.balances[0].held_micros) if answer.balances else (0, 0)

    async def entries(self) -> list[tuple[str, int]]:
        answer = await self.credits.ListLedgerEntries(ListLedgerEntriesRequest(), metadata=METADATA)
        return [
            (Kind.Name(entry.kind).removeprefix("KIND_"), entry.amount_micros) for entry in reversed(answer.entries)
        ]

    async def settled(self) -> tuple[int, int]:
        async with asyncio.timeout(10):
            while (balance := await self.balance())[1]:
                await asyncio.sleep(0.01)
        return balance


@pytest.fixture(params=CHANNELS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with running_core(credits=CREDITS) as core, channel_to(core, request.param) as channel:
        yield Client(channel)


def spec_of(text: str = "one two three", limit: int = 0, model: str = "demo/echo", **chat: Any) -> RunSpec:
    spec = RunSpec()
    spec.chat.model = model
    message = spec.chat.messages.add(role=Role.ROLE_USER)
    message.parts.add().text.text = text
    if limit:
        spec.chat.sampling.max_output_tokens = limit
    for name, value in chat.items():
        setattr(spec.chat, name, value)
    return spec


def script(**members: Any) -> str:
    return f"SCRIPT {json.dumps(members)}"


async def test_a_good_answer_is_charged_for_what_it_took(client: Client) -> None:
    await client.grant(1000)
    run = await client.execute(spec_of(limit=10))
    cost = 5 + run.usage.input_tokens + run.usage.output_tokens
    assert (run.charge.currency, run.charge.amount_micros) == ("credits", cost)
    assert run.charge.available_micros == 1000 - cost
    assert await client.balance() == (1000 - cost, 0)
    (grant, hold, charge, release) = await client.entries()
    assert (grant, charge) == (("GRANT", 1000), ("CHARGE", cost))
    assert (hold[0], release) == ("HOLD", ("RELEASE", hold[1] - cost))


async def test_the_stream_ends_with_what_it_cost_and_that_is_durable_by_then(client: Client) -> None:
    await client.grant(1000)
    call = client.runs.StreamRun(StreamRunRequest(spec=spec_of(limit=10)), metadata=METADATA, timeout=20)
    events = [event async for batch in call for event in batch.events]
    charge = events[-1].run_completed.charge
    assert charge.amount_micros > 5
    assert await client.balance() == (1000 - charge.amount_micros, 0)


async def test_what_the_balance_does_not_buy_is_refused_before_it_begins(client: Client) -> None:
    await client.grant(20)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(spec_of(limit=50))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "credits" in str(refused.value.details())
    assert await client.entries() == [("GRANT", 20)]


async def test_a_failure_costs_nothing(client: Client) -> None:
    await client.grant(1000)
    failures: list[dict[str, Any]] = [{"fail_before": {}}, {"text": ["a", "b"], "fail_after": {"after": 1}}]
    for members in failures:
        run = await client.execute(spec_of(script(**members), limit=10))
        assert run.state == Run.STATE_FAILED
        assert await client.settled() == (1000, 0)


async def test_a_caller_that_leaves_pays_for_what_was_said(client: Client) -> None:
    await client.grant(1000)
    spec = spec_of(script(text=["a", "b", "c"], hang=True), limit=10)
    call = client.runs.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
    said = 0
    async for batch in call:
        said += sum(event.HasField("text_delta") for event in batch.events)
        if said == 3:
            break
    call.cancel()
    available, _ = await client.settled()
    assert 5 < 1000 - available < 40


async def test_a_caller_that_leaves_before_the_first_word_pays_nothing(client: Client) -> None:
    await client.grant(1000)
    call = client.runs.StreamRun(StreamRunRequest(spec=spec_of(script(hang=True), limit=10)), metadata=METADATA)
    async for batch in call:
        assert batch.events
        break
    assert (await client.balance())[1] > 0
    call.cancel()
    assert await client.settled() == (1000, 0)


async def test_a_cancelled_run_is_settled(client: Client) -> None:
    await client.grant(1000)
    spec = spec_of(script(text=["a"], hang=True), limit=10)
    call = client.runs.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
    async for batch in call:
        if any(event.HasField("text_delta") for event in batch.events):
            await client.runs.CancelRun(CancelRunRequest(run_id=batch.run_id), metadata=METADATA)
    available, _ = await client.settled()
    assert available < 1000


async def test_missing_usage_is_estimated(client: Client) -> None:
    await client.grant(1000)
    run = await client.execute(spec_of(script(text=["four four four "] * 4, usage=False), limit=50))
    assert run.usage.estimated
    assert run.charge.amount_micros == 5 + run.usage.input_tokens + run.usage.output_tokens


async def test_the_same_request_id_pays_once(client: Client) -> None:
    await client.grant(1000)
    spec = spec_of(script(text=["a", "b"], delay=0.05), limit=10)
    runs = await asyncio.gather(*(client.execute(spec, "once") for _ in range(5)))
    assert len({run.id for run in runs}) == 1
    assert await client.settled() == (1000 - runs[0].charge.amount_micros, 0)
    assert [kind for kind, _ in await client.entries()] == ["GRANT", "HOLD", "CHARGE", "RELEASE"]


async def test_usage_tells_the_charge(client: Client) -> None:
    await client.grant(1000)
    run = await client.execute(spec_of(limit=10))
    async with asyncio.timeout(10):
        while not (found := (await client.usage.ListUsage(ListUsageRequest(), metadata=METADATA)).records):
            await asyncio.sleep(0.05)
    assert found[0].run_id == run.id
    assert found[0].charge.amount_micros == run.charge.amount_micros
    assert found[0].usage.output_tokens == run.usage.output_tokens
    assert found[0].operation == "chat"


async def test_a_turn_is_stored_when_its_end_is_shown(client: Client) -> None:
    await client.grant(1000)
    made = (await client.conversations.CreateConversation(CreateConversationRequest(), metadata=METADATA)).conversation
    run = await client.execute(spec_of(limit=20, conversation_id=made.id))
    assert run.conversation_id == made.id
    listing = ListMessagesRequest(conversation_id=made.id)
    stored = (await client.conversations.ListMessages(listing, metadata=METADATA)).messages
    assert [message.message.role for message in stored] == [Role.ROLE_USER, Role.ROLE_ASSISTANT]
    assert [message.id for message in stored] == list(run.message_ids)
    assert stored[-1].message.parts[0].text.text == run.choices[0].message.parts[0].text.text
    second = await client.execute(spec_of("SHOW", limit=20, conversation_id=made.short_id))
    assert second.usage.input_tokens > run.usage.input_tokens  # the history came first


async def test_a_cancelled_turn_keeps_what_was_said(client: Client) -> None:
    await client.grant(1000)
    made = (await client.conversations.CreateConversation(CreateConversationRequest(), metadata=METADATA)).conversation
    spec = spec_of(script(text=["Hel", "lo"], hang=True), limit=20, conversation_id=made.id)
    call = client.runs.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
    said = 0
    async for batch in call:
        said += sum(event.HasField("text_delta") for event in batch.events)
        if said == 2:
            break
    call.cancel()
    listing = ListMessagesRequest(conversation_id=made.id)
    async with asyncio.timeout(10):
        while not (stored := (await client.conversations.ListMessages(listing, metadata=METADATA)).messages):
            await asyncio.sleep(0.01)
    assert stored[-1].message.parts[0].text.text == "Hello"
    assert stored[-1].state == StoredMessage.STATE_CANCELLED


async def test_a_whole_history_is_not_stored_twice(client: Client) -> None:
    await client.grant(10_000)
    made = (await client.conversations.CreateConversation(CreateConversationRequest(), metadata=METADATA)).conversation
    spec = spec_of("one", limit=20, conversation_id=made.id, history_mode=HistoryMode.HISTORY_MODE_GIVEN)
    first = await client.execute(spec)
    spec.chat.messages.add().CopyFrom(first.choices[0].message)
    spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = "two"
    await client.execute(spec)
    listing = ListMessagesRequest(conversation_id=made.id)
    stored = (await client.conversations.ListMessages(listing, metadata=METADATA)).messages
    said = [message.message.parts[0].text.text for message in stored]
    assert said[::2] == ["one", "two"]
    assert len(said) == 4


async def test_an_unknown_persona_is_named(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(spec_of(persona="nobody"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "maya" in str(refused.value.details())


async def test_a_lowered_limit_is_told() -> None:
    async with running_core(credits=CREDITS.model_copy(update={"when_short": "lower"})) as core:
        client = Client(core.channel())
        await client.grant(200)
        run = await client.execute(spec_of("word " * 90, limit=90))
        assert 0 < run.charge.lowered_output_tokens < 90
        assert run.choices[0].finish_reason == FinishReason.FINISH_REASON_LENGTH
        assert run.charge.amount_micros <= 200


async def test_a_long_answer_reserves_more_and_ends_where_the_balance_does() -> None:
    credits = CREDITS.model_copy(update={"max_output_tokens": 8})
    async with running_core(credits=credits) as core:
        client = Client(core.channel())
        await client.grant(3800)
        spec = spec_of(script(text=["four four four "] * 500, delay=0.001))
        call = client.runs.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA, timeout=20)
        events = [event async for batch in call for event in batch.events]
        finished = [event.choice_finished for event in events if event.HasField("choice_finished")]
        assert [choice.finish_reason for choice in finished] == [FinishReason.FINISH_REASON_LENGTH]
        assert 8 < events[-1].run_completed.charge.amount_micros <= 3800
        assert [kind for kind, _ in await client.entries()].count("HOLD") > 2
        available, held = await client.balance()
        assert held == 0
        assert available == 3800 - events[-1].run_completed.charge.amount_micros


async def test_limits_are_told_and_kept() -> None:
    limits = RateLimitSettings(account=RateSettings(requests_per_minute=2))
    async with running_core(rate_limits=limits) as core:
        client = Client(core.channel())
        first = await client.execute(spec_of())
        assert (first.rate_state.request_limit, first.rate_state.requests_remaining) == (2, 1)
        await client.execute(spec_of())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.execute(spec_of())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_refused_run_leaves_nothing_behind() -> None:
    limits = RateLimitSettings(account=RateSettings(concurrent_runs=1))
    async with running_core(rate_limits=limits, credits=CREDITS) as core:
        client = Client(core.channel())
        await client.grant(1000)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.execute(spec_of(model="demo/echo", persona="nobody"))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        run = await client.execute(spec_of(limit=5))
        assert run.state == Run.STATE_COMPLETED
        assert (await client.runs.GetRun(GetRunRequest(run_id=run.id), metadata=METADATA)).run.HasField("charge")
