"""What runs used, from the run to REST, gRPC and the command line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import grpc
import pytest

from dragoman.v1 import usage_service_pb2 as pb
from dragoman.v1.account_service_pb2 import CreateKeyRequest
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.run_pb2 import Run
from dragoman.v1.usage_service_pb2_grpc import UsageServiceStub
from dragoman_server.app import Core
from dragoman_server.providers.scripted import SCRIPT_MARK
from tests.support.core import METADATA, running_core
from tests.support.edge import client_of, running_edge

FAILING = f'{SCRIPT_MARK}{{"fail_before": {{"reason": "PROVIDER_FAILED", "message": "no"}}}}'
COUNTED = f'{SCRIPT_MARK}{{"text": ["a"], "usage": {{"input_tokens": 11, "output_tokens": 7}}}}'


@asynccontextmanager
async def a_site(**sections: Any) -> AsyncIterator[tuple[Core, aiohttp.ClientSession]]:
    async with running_core(**sections) as core, running_edge(core.channel()) as edge, client_of(edge) as client:
        yield core, client


async def chat(client: aiohttp.ClientSession, text: str, *, status: int = 200, **body: Any) -> str:
    messages = [{"role": "user", "content": text}]
    headers = body.pop("headers", None)
    async with client.post(
        "/v1/chat/completions", json={"model": "fast", "messages": messages, **body}, headers=headers
    ) as r:
        assert r.status == status, await r.text()
        await r.read()
        return r.headers["x-dragoman-run-id"]


async def usage(client: aiohttp.ClientSession, path: str = "", *, status: int = 200, **query: str) -> dict[str, Any]:
    async with client.get(f"/v1/usage{path}", params=query) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def records(client: aiohttp.ClientSession, count: int) -> list[dict[str, Any]]:
    """Waits for as many records: they are written after the runs."""
    for _ in range(100):
        found: list[dict[str, Any]] = (await usage(client)).get("records", [])
        if len(found) >= count:
            assert len(found) == count
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("the records did not come")


async def test_every_run_is_noted_with_what_it_used() -> None:
    async with a_site() as (_, client):
        plain = await chat(client, COUNTED)
        streamed = await chat(client, COUNTED, stream=True)
        failed = await chat(client, FAILING, status=502)
        async with client.post("/v1/embeddings", json={"model": "demo/embed", "input": "a b c"}) as response:
            assert response.status == 200
        found = {record["run_id"]: record for record in await records(client, 4)}
        for run_id in (plain, streamed):
            record = found.pop(run_id)
            assert record["usage"]["input_tokens"] == "11"
            assert record["usage"]["output_tokens"] == "7"
            assert (record["operation"], record["provider"], record["state"]) == ("chat", "demo", "STATE_COMPLETED")
            assert (record["account_id"], record["model"]) == ("default", "fast")
            assert record["key_id"].startswith("key_")
            assert datetime.now(UTC) - datetime.fromisoformat(record["create_time"]) < timedelta(minutes=5)
        record = found.pop(failed)
        assert (record["state"], record["failure_reason"]) == ("STATE_FAILED", "PROVIDER_FAILED")
        (vectors,) = found.values()
        assert (vectors["operation"], vectors["model"]) == ("embeddings", "demo/embed")
        assert int(vectors["usage"]["input_tokens"]) > 0


async def test_sums_are_those_of_the_records() -> None:
    async with a_site() as (_, client):
        for _ in range(3):
            await chat(client, COUNTED)
        await chat(client, FAILING, status=502)
        await records(client, 4)
        answer = await usage(client, "/summary", interval="all", dimensions="model,operation")
        (total,) = answer["sums"]
        assert (total["model"], total["operation"]) == ("fast", "chat")
        assert (total["runs"], total["failed_runs"]) == ("4", "1")
        assert (total["input_tokens"], total["output_tokens"]) == ("33", "21")
        assert "provider" not in total
        hours = (await usage(client, "/summary", interval="hour"))["sums"]
        assert sum(int(hour["runs"]) for hour in hours) == 4
        assert (await usage(client, "/summary", model="another")).get("sums", []) == []


async def test_pages_and_filters() -> None:
    async with a_site() as (_, client):
        runs = [await chat(client, "hi") for _ in range(5)]
        await records(client, 5)
        first = await usage(client, page_size="2")
        second = await usage(client, page_size="3", page_token=first["next_page_token"])
        assert [r["run_id"] for r in first["records"] + second["records"]] == runs[::-1]
        assert "next_page_token" not in second
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert "records" not in await usage(client, start_time=later)
        assert len((await usage(client, end_time=later, provider="demo"))["records"]) == 5


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("", {"page_size": "-1"}, "page_size"),
        ("", {"page_size": "x"}, "page_size"),
        ("", {"page_token": "x"}, "page_token"),
        ("", {"start_time": "yesterday"}, "start_time"),
        ("", {"interval": "day"}, "interval"),
        ("", {"filter": "x"}, "filter"),
        ("", {"nonsense": "1"}, "nonsense"),
        ("/summary", {"interval": "week"}, "interval"),
        ("/summary", {"dimensions": "model,mood"}, "dimensions"),
        ("/summary", {"page_size": "2"}, "page_size"),
    ],
)
async def test_what_makes_no_sense_is_named(path: str, query: dict[str, str], param: str) -> None:
    async with a_site() as (_, client):
        answer = await usage(client, path, status=400, **query)
        assert answer["error"]["param"] == param
        assert answer["error"]["message"]


async def test_members_see_their_own_and_nobody_another_account() -> None:
    async with a_site() as (core, client):
        made = await AccountServiceStub(core.channel()).CreateKey(CreateKeyRequest(name="m"), metadata=METADATA)
        member = {"Authorization": f"Bearer {made.secret}"}
        await chat(client, "mine", headers=member)
        await chat(client, "theirs")
        await records(client, 2)
        metadata = (("authorization", f"Bearer {made.secret}"),)
        service = UsageServiceStub(core.channel())
        (own,) = (await service.ListUsage(pb.ListUsageRequest(), metadata=metadata)).records
        assert own.key_id == made.key.id
        assert own.state == Run.STATE_COMPLETED
        (total,) = (await service.SummarizeUsage(pb.SummarizeUsageRequest(), metadata=metadata)).sums
        assert total.runs == 1
        for which in (pb.UsageFilter(key_id="key_0"), pb.UsageFilter(account_id="other"), pb.UsageFilter(user_id="u")):
            for call in (
                service.ListUsage(pb.ListUsageRequest(filter=which), metadata=metadata),
                service.SummarizeUsage(pb.SummarizeUsageRequest(filter=which), metadata=metadata),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.SummarizeUsage(pb.SummarizeUsageRequest(interval=9), metadata=METADATA)  # type: ignore[arg-type]
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_nothing_is_noted_when_it_is_switched_off() -> None:
    from dragoman_server.settings import UsageSettings

    async with a_site(usage=UsageSettings(enabled=False)) as (core, client):
        await chat(client, "hi")
        await asyncio.sleep(1.2)
        assert "records" not in await usage(client)
        assert core.registry.get_sample_value("dragoman_usage_records_total") == 0


async def test_what_was_noted_a_second_ago_survives_a_kill(tmp_path: Any) -> None:
    from tests.support.server import KEY, running_server

    bearer = {"Authorization": f"Bearer {KEY}"}
    with running_server(tmp_path) as server:
        async with aiohttp.ClientSession(server.url, headers=bearer) as client:
            runs = [await chat(client, f"number {i}", model="demo") for i in range(20)]
            await records(client, 20)
            server.process.kill()
            server.process.wait(10)
    with running_server(tmp_path) as server:
        async with aiohttp.ClientSession(server.url, headers=bearer) as client:
            assert {record["run_id"] for record in await records(client, 20)} == set(runs)
            await chat(client, "one more", model="demo")
            server.process.terminate()  # what is pending is written at the end
            server.process.wait(30)
    command = [sys.executable, "-m", "dragoman_cli", "usage", "summary", "--by", "provider", "--interval", "all"]
    process = await asyncio.create_subprocess_exec(
        *command, "--data-dir", str(tmp_path / "data"), stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    shown, _ = await process.communicate()
    head, row = shown.decode().splitlines()
    assert head.split() == ["START", "PROVIDER", "RUNS", "FAILED", "READ", "CACHED", "WRITTEN", "CHARGED"]
    assert row.split()[2:5] == ["scripted", "21", "0"]
