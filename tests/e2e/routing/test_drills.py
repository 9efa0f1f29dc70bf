"""A real core over real upstream servers that die, stall, refuse and talk nonsense."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import GetModelRequest, ModelTarget
from dragoman.v1.catalog_service_pb2_grpc import CatalogServiceStub
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.run_pb2 import Run, RunSpec
from dragoman_server.app import Core
from dragoman_server.errors import DragomanError
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.service import StartOptions
from dragoman_server.settings import BreakerSettings, ModelSettings, ProviderSettings, RoutingSettings, TargetSettings
from tests.support.core import METADATA, running_core
from tests.support.runs import CALLER, Collector, chat_spec
from tests.support.upstream_server import RESET, Answer, UpstreamServer, chat, in_turn, raw, whole

NEVER_OPEN = BreakerSettings(failures=1_000_000)
ROUTING = RoutingSettings(backoff=0.01, max_backoff=0.2, breaker=NEVER_OPEN)


@asynccontextmanager
async def core_over(
    *answers: Answer, routing: RoutingSettings = ROUTING, provider: dict[str, Any] | None = None, **model: Any
) -> AsyncIterator[tuple[Core, list[UpstreamServer]]]:
    """Yields a core with a model `m` over one upstream server for each answer."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(UpstreamServer(answer)) for answer in answers]
        names = [f"u{index}" for index in range(len(servers))]
        providers = tuple(
            ProviderSettings(name=name, dialect="openai_chat", base_url=server.url, **(provider or {}))
            for name, server in zip(names, servers, strict=True)
        )
        targets = tuple(TargetSettings(provider=name, upstream_model="echo") for name in names)
        models = (ModelSettings(id="m", targets=targets, **model),)
        yield (
            await stack.enter_async_context(running_core(providers=providers, models=models, routing=routing)),
            servers,
        )


def start(core: Core, spec: RunSpec, *, incremental: bool = True) -> tuple[LiveRun, Collector]:
    run, watcher = core.runs.start(CALLER, spec, StartOptions("StreamRun", incremental=incremental)), Collector()
    run.add_caller()
    run.watch(watcher, 0)
    return run, watcher


async def finished(run: LiveRun) -> Run:
    async with asyncio.timeout(30):
        await run.wait_ended()
    return run.record()


def said(record: Run, choice: int = 0) -> str:
    return "".join(part.text.text for part in record.choices[choice].message.parts)


ERROR = b'{"error": {"message": "it hurts", "type": "server_error"}}'
TROUBLES = {
    "500": raw(whole(500, ERROR)),
    "401": raw(whole(401, ERROR)),
    "404": raw(whole(404, b'{"error": {"message": "The model is gone.", "code": "model_not_found"}}')),
    "429": raw(whole(429, ERROR, Retry_After=60)),
    "garbage": raw(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "no JSON": raw(whole(200, b"<html>")),
    "cut": raw(RESET),
    "stalled": raw(5.0),
    "an empty stream": raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_another_target_answers_and_the_record_tells_who(trouble: str, stream: bool) -> None:
    provider = {"first_event_timeout": 0.2}
    async with core_over(TROUBLES[trouble], chat(), provider=provider) as (core, servers):
        run, watcher = start(core, chat_spec(model="m", text=["Hel", "lo"]), incremental=stream)
        record = await finished(run)
        assert (record.state, said(record)) == (Run.STATE_COMPLETED, "Hello")
        assert (record.provider, record.upstream_model, record.attempts) == ("u1", "echo", 2)
        assert watcher.kinds[:3] == ["run_started", "step_started", "step_started"]
        steps = [event.step_started for event in watcher.events if event.HasField("step_started")]
        assert [(step.step_id, step.provider, step.attempt) for step in steps] == [
            ("step_1", "u0", 1),
            ("step_1", "u1", 2),
        ]
        assert [len(server.requests) for server in servers] == [1, 1]


async def test_a_server_that_refuses_the_key_is_not_bothered_again() -> None:
    routing = RoutingSettings(breaker=BreakerSettings(cooldown=600, max_cooldown=600))
    async with core_over(TROUBLES["401"], chat(), routing=routing) as (core, servers):
        for _ in range(3):
            record = await finished(start(core, chat_spec(model="m"))[0])
            assert (record.state, record.provider) == (Run.STATE_COMPLETED, "u1")
        assert [len(server.requests) for server in servers] == [1, 3]
        answer = await CatalogServiceStub(core.channel()).GetModel(GetModelRequest(model_id="m"), metadata=METADATA)
        assert [(target.health, target.fault) for target in answer.model.targets] == [
            (ModelTarget.HEALTH_DOWN, Reason.PROVIDER_AUTH),
            (ModelTarget.HEALTH_UP, ""),
        ]
    async with core_over(TROUBLES["401"], routing=routing) as (core, servers):
        record = await finished(start(core, chat_spec(model="m"))[0])
        assert record.failure.reason == Reason.PROVIDER_AUTH
        with pytest.raises(DragomanError) as caught:
            start(core, chat_spec(model="m"))
        assert (caught.value.reason, caught.value.retryable) == (Reason.PROVIDER_AUTH, False)
        assert len(servers[0].requests) == 1


async def test_what_a_failed_emulation_consumed_counts_beside_the_answer() -> None:
    """The first target never writes JSON, whatever it is told; the second one does."""
    never = raw(
        whole(
            200,
            b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "No."}, "finish_reason": "stop"}],'
            b'"usage": {"prompt_tokens": 10, "completion_tokens": 1}}',
        )
    )
    spec = chat_spec(model="m", text=["{}"], usage={"input_tokens": 5, "output_tokens": 2})
    spec.chat.response_format.json_object.SetInParent()
    async with core_over(never, chat(), capabilities={"json_object": False}) as (core, servers):
        record = await finished(start(core, spec)[0])
        assert [len(server.requests) for server in servers] == [3, 1]
        assert (record.state, said(record), record.provider) == (Run.STATE_COMPLETED, "{}", "u1")
        assert (record.usage.input_tokens, record.usage.output_tokens) == (35, 5)


async def test_an_unreachable_target_costs_no_answer() -> None:
    async with core_over(chat(), chat()) as (core, servers):
        servers[0]._server.close()
        record = await finished(start(core, chat_spec(model="m"))[0])
        assert (record.state, record.provider, record.attempts) == (Run.STATE_COMPLETED, "u1", 2)


async def test_the_same_server_is_asked_again() -> None:
    async with core_over(in_turn(raw(whole(503, ERROR)), raw(whole(500, ERROR)), chat())) as (core, servers):
        record = await finished(start(core, chat_spec(model="m", text=["Hi"]))[0])
        assert (record.state, said(record), record.attempts) == (Run.STATE_COMPLETED, "Hi", 3)
        assert len(servers[0].requests) == 3


async def test_a_short_retry_after_is_kept_and_a_long_one_passed_on() -> None:
    slow_down = raw(whole(429, ERROR, retry_after_ms=150))
    async with core_over(in_turn(slow_down, chat())) as (core, _):
        loop = asyncio.get_running_loop()
        begin = loop.time()
        record = await finished(start(core, chat_spec(model="m"))[0])
        assert record.state == Run.STATE_COMPLETED
        assert loop.time() - begin >= 0.14
    async with core_over(raw(whole(429, ERROR, Retry_After=7))) as (core, servers):
        record = await finished(start(core, chat_spec(model="m"))[0])
        assert record.failure.reason == Reason.PROVIDER_RATE_LIMITED
        assert record.failure.retry_after.ToSeconds() == 7
        assert len(servers[0].requests) == 1


async def test_an_answer_that_had_begun_is_not_begun_again() -> None:
    async with core_over(chat(), chat()) as (core, servers):
        record = await finished(start(core, chat_spec(model="m", text=["a", "b"], drop_after=1))[0])
        assert (record.state, said(record), record.attempts) == (Run.STATE_FAILED, "a", 1)
        assert len(servers[1].requests) == 0


async def test_all_choices_go_to_the_same_target_first() -> None:
    async with core_over(chat(), chat(), chat(), strategy="weighted") as (core, servers):
        spec = chat_spec(model="m")
        spec.chat.sampling.choice_count = 8
        record = await finished(start(core, spec)[0])
        assert record.state == Run.STATE_COMPLETED
        assert sorted(len(server.requests) for server in servers) == [0, 0, 8]


async def test_choices_that_go_different_ways_are_each_announced() -> None:
    provider = {"max_concurrency": 1, "max_queue": 0}
    async with core_over(chat(), chat(), provider=provider) as (core, servers):
        spec = chat_spec(model="m")
        spec.chat.sampling.choice_count = 2
        run, watcher = start(core, spec)
        assert (await finished(run)).state == Run.STATE_COMPLETED
        assert [len(server.requests) for server in servers] == [1, 1]
        steps = [event.step_started for event in watcher.events if event.HasField("step_started")]
        assert [(step.provider, step.attempt) for step in steps] == [("u0", 1), ("u1", 1)]


async def test_one_of_two_targets_dies_under_load_and_nothing_fails_that_had_not_begun() -> None:
    routing = RoutingSettings(backoff=0.01, max_backoff=0.2, breaker=BreakerSettings(failures=3, cooldown=60))
    async with core_over(chat(), chat(), strategy="least_outstanding", routing=routing) as (core, servers):
        runs = []
        for number in range(120):
            text = chat_spec(model="m", text=["a", "b", "c"], delay=0.03, first_delay=0.03)
            runs.append(start(core, text))
            await asyncio.sleep(0.002)
            if number == 60:
                servers[0]._server.close()
                for connection in tuple(servers[0].connections):
                    connection.transport.abort()
        records = [await finished(run) for run, _ in runs]
        begun = [record for record in records if record.state == Run.STATE_FAILED]
        assert all(said(record) for record in begun), "only what had begun to answer may fail"
        assert begun, "the drill hit someone"
        assert any(record.attempts > 1 for record in records), "and someone was saved"
        assert all(said(record) == "abc" for record in records if record.state == Run.STATE_COMPLETED)
        assert all(record.provider == "u1" for record in records[-20:]), "the dead one is left alone"
        model = await CatalogServiceStub(core.channel()).GetModel(GetModelRequest(model_id="m"), metadata=METADATA)
        healths = [target.health for target in model.model.targets]
        assert healths == [ModelTarget.HEALTH_DOWN, ModelTarget.HEALTH_UP]
        assert [target.in_flight for target in model.model.targets] == [0, 0]
        assert model.model.ready


async def test_a_target_that_comes_back_is_used_again() -> None:
    routing = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=1, cooldown=0.1))
    async with core_over(in_turn(raw(RESET), chat()), routing=routing) as (core, servers):
        assert (await finished(start(core, chat_spec(model="m"))[0])).state == Run.STATE_FAILED
        assert not core.catalog.get("m").ready
        await asyncio.sleep(0.12)
        assert core.catalog.get("m").ready
        assert (await finished(start(core, chat_spec(model="m"))[0])).state == Run.STATE_COMPLETED
        assert core.catalog.get("m").targets[0].health == ModelTarget.HEALTH_UP
        assert len(servers[0].requests) == 2


async def test_cancelling_a_queued_run_reaches_nobody() -> None:
    provider = {"max_concurrency": 1, "max_queue": 5}
    async with core_over(chat(), provider=provider) as (core, servers):
        first, _ = start(core, chat_spec(model="m", text=["a"], hang=True))
        queued, watcher = start(core, chat_spec(model="m"))
        await asyncio.sleep(0.05)
        assert watcher.kinds == ["run_started", "step_started"]
        queued.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        first.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        assert (await finished(queued)).state == Run.STATE_CANCELLED
        async with asyncio.timeout(10):
            await servers[0].aborted.wait()
        await asyncio.sleep(0.05)
        assert len(servers[0].requests) == 1
        assert core.catalog.get("m").targets[0].in_flight == 0


async def test_cancelling_while_backing_off_reaches_nobody() -> None:
    routing = RoutingSettings(backoff=0.3, max_backoff=0.5)
    async with core_over(raw(whole(429, ERROR, retry_after_ms=200)), routing=routing) as (core, servers):
        run, _ = start(core, chat_spec(model="m"))
        async with asyncio.timeout(10):
            while not core.catalog.resolve("m").target.tally.failures:
                await asyncio.sleep(0.005)
        run.cancel(CancelReason.CANCEL_REASON_REQUESTED)
        await asyncio.sleep(0.6)
        assert len(servers[0].requests) == 1
        assert run.record().state == Run.STATE_CANCELLED


async def test_dropped_fields_are_told_by_event_and_record() -> None:
    async with core_over(chat(), unsupported_params="report", capabilities={"logprobs": False}) as (core, _):
        spec = chat_spec(model="m", text=["a"])
        spec.chat.sampling.logprobs = True
        run, watcher = start(core, spec)
        record = await finished(run)
        assert list(record.dropped_params) == ["sampling.logprobs"]
        (step,) = (event.step_started for event in watcher.events if event.HasField("step_started"))
        assert list(step.dropped_params) == ["sampling.logprobs"]


async def test_attempts_leave_nothing_to_the_collector() -> None:
    async with core_over(TROUBLES["500"], chat(), provider={"max_concurrency": 2}) as (core, _):
        await finished(start(core, chat_spec(model="m"))[0])
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.garbage.clear()
        try:
            for _ in range(5):
                runs = [start(core, chat_spec(model="m"))[0] for _ in range(4)]
                for run in runs:
                    await finished(run)
            del runs, run
            await asyncio.sleep(0.05)
            gc.collect()
            ours = {type(thing).__qualname__ for thing in gc.garbage if "dragoman" in type(thing).__module__}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert ours == set()
