"""Many requests at a time, for which credits are reserved ahead: what they cost, and that nothing stays reserved."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pydantic import SecretStr

from dragoman.v1.credit_service_pb2 import (
    GrantCreditsRequest,
    LedgerEntry,
    ListBalancesRequest,
    ListLedgerEntriesRequest,
)
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import Run, RunSpec
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, GetRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.settings import CreditPriceSettings, CreditSettings, StoreSettings
from dragoman_server.store.database import open_store, sqlite_url
from tests.support.core import CHANNELS, METADATA, channel_to, running_core
from tests.support.credits import available, check_sums, held
from tests.support.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["postgres_server", "postgres_url"]

MILLION = 1_000_000
CREDITS = CreditSettings(
    enabled=True,
    prices=(
        CreditPriceSettings(request_micros=5, input_micros_per_million=MILLION, output_micros_per_million=MILLION),
    ),
    max_output_tokens=100,
)
CALLERS, EACH = 16, 20
PLENTY = 10**9


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else sqlite_url(tmp_path / "dragoman.db")


def spec_of(text: str, limit: int = 0) -> RunSpec:
    spec = RunSpec()
    spec.chat.model = "demo/echo"
    spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = text
    if limit:
        spec.chat.sampling.max_output_tokens = limit
    return spec


async def grant(channel: Any, micros: int) -> None:
    request = GrantCreditsRequest(account_id="default", amount_micros=micros)
    await CreditServiceStub(channel).GrantCredits(request, metadata=METADATA)


async def execute(channel: Any, spec: RunSpec) -> Run:
    run: Run = (await RunServiceStub(channel).ExecuteRun(ExecuteRunRequest(spec=spec), metadata=METADATA)).run
    return run


@pytest.mark.parametrize("kind", CHANNELS)
async def test_everybody_pays_what_their_answer_took(kind: str, url: str) -> None:
    store = StoreSettings(url=SecretStr(url))
    async with running_core(credits=CREDITS, store=store) as core, channel_to(core, kind) as channel:
        await grant(channel, PLENTY)

        async def caller(number: int) -> list[Run]:
            return [await execute(channel, spec_of("one two " * number, number % 3 * 20)) for _ in range(EACH)]

        runs = [run for found in await asyncio.gather(*map(caller, range(1, CALLERS + 1))) for run in found]
        for run in runs:
            assert run.charge.amount_micros == 5 + run.usage.input_tokens + run.usage.output_tokens
            kept = await RunServiceStub(channel).GetRun(GetRunRequest(run_id=run.id), metadata=METADATA)
            assert kept.run == run
        spent = sum(run.charge.amount_micros for run in runs)
        credits = CreditServiceStub(channel)
        (balance,) = (await credits.ListBalances(ListBalancesRequest(), metadata=METADATA)).balances
        assert (balance.available_micros, balance.held_micros) == (PLENTY - spent, 0)
        request = ListLedgerEntriesRequest(page_size=1000)
        entries = (await credits.ListLedgerEntries(request, metadata=METADATA)).entries
        charges = {entry.run_id: entry.amount_micros for entry in entries if entry.kind == LedgerEntry.KIND_CHARGE}
        assert charges == {run.id: run.charge.amount_micros for run in runs}
        assert any(entry.run_id.startswith("adv_") for entry in entries)
        assert len(entries) < 3 * len(runs)
    if url != "memory:":  # the end gave back what was reserved
        after = open_store(url)
        assert (await available(after), await held(after)) == (PLENTY - spent, 0)
        await check_sums(after)
        await after.close()


async def test_the_last_credits_are_spent_too(url: str) -> None:
    """Whatever is reserved ahead, nobody is refused while the balance has what the answer can cost."""
    async with (
        running_core(credits=CREDITS, store=StoreSettings(url=SecretStr(url))) as core,
        channel_to(core, "inprocess") as channel,
    ):
        spec = spec_of("one two three", 20)
        await grant(channel, 1000)
        cost = (await execute(channel, spec)).charge.amount_micros
        await grant(channel, 100 * cost - (1000 - cost))
        ends: Counter[Any] = Counter()

        async def caller() -> None:
            for _ in range(12):
                try:
                    ends[(await execute(channel, spec)).state] += 1
                except grpc.aio.AioRpcError as error:
                    ends[error.code()] += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

        async def spend_the_rest() -> None:
            while True:  # what many wanted at a time, one after the other gets
                ends[(await execute(channel, spec)).state] += 1

        with pytest.raises(grpc.aio.AioRpcError, match="are available"):
            await spend_the_rest()
        request = ListBalancesRequest()
        (balance,) = (await CreditServiceStub(channel).ListBalances(request, metadata=METADATA)).balances
        assert balance.available_micros == (100 - ends[Run.STATE_COMPLETED]) * cost
        assert balance.available_micros < 100  # less than what one can cost
        assert balance.held_micros == 0
