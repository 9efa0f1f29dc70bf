"""What `/metrics` shows after traffic that is known."""

from __future__ import annotations

import asyncio

from prometheus_client import generate_latest

from dragoman.reasons import Reason
from dragoman_server.settings import BreakerSettings, ModelSettings, ProviderSettings, RoutingSettings
from tests.support.stand import stand
from tests.support.upstream_server import chat, raw, script, whole
from tests.support.waiting import until

BROKEN = raw(whole(500, b'{"error": {"message": "down"}}'))


async def test_runs_events_and_tokens() -> None:
    async with stand() as site:
        await site.ask(script(text=["a", "b", "c"], reasoning=["x"]), stream=True)
        await site.ask(script(text=["a", "b"]))
        runs = (await site.client.get("/v1/runs")).status
        assert runs == 200
        assert site.counted("dragoman_runs_total", provider="u0", state="completed") == 2
        assert site.counted("dragoman_tokens_total", provider="u0", direction="reasoning_output") == 1
        assert site.counted("dragoman_tokens_total", provider="u0", direction="output") == 6
        assert (site.counted("dragoman_tokens_total", provider="u0", direction="input") or 0) > 0
        assert site.counted("dragoman_tokens_total", provider="u0", direction="cached_input") == 0
        assert (site.counted("dragoman_events_total", provider="u0") or 0) > 10
        assert site.counted("dragoman_run_seconds_count", provider="u0", state="completed") == 2


async def test_times_of_streams() -> None:
    async with stand() as site:
        await site.ask(script(text=["a", "b", "c", "d"], delay=0.03, first_delay=0.3), stream=True)
        await site.ask(script(text=["a", "b"]))  # nobody reads along: no times
        first, gaps = "dragoman_first_content_seconds", "dragoman_event_gap_seconds"
        assert site.counted(f"{first}_count", provider="u0") == 1
        assert site.counted(f"{first}_bucket", provider="u0", le="0.25") == 0
        count = site.counted(f"{gaps}_count", provider="u0") or 0
        assert count >= 3
        assert 0.06 < (site.counted(f"{gaps}_sum", provider="u0") or 0) < 20
        assert (site.counted(f"{gaps}_bucket", provider="u0", le="0.01") or 0) < count


async def test_upstream_errors_retries_and_the_breaker() -> None:
    routing = RoutingSettings(backoff=0.01, breaker=BreakerSettings(failures=2, cooldown=300, max_cooldown=300))
    async with stand(BROKEN, chat(), sections={"routing": routing}) as site:
        for _ in range(3):
            assert (await site.ask("hello"))[0] == 200

        def target(name: str, provider: str, **labels: str) -> float | None:
            return site.counted(f"dragoman_target_{name}", provider=provider, model="echo", **labels)

        assert site.counted("dragoman_upstream_errors_total", provider="u0", reason=Reason.PROVIDER_FAILED) == 2
        assert [target("attempts_total", one) for one in ("u0", "u1")] == [2, 3]
        assert [target("retries_total", one) for one in ("u0", "u1")] == [0, 2]
        assert [target("breaker", "u0", state=state) for state in ("closed", "half_open", "open")] == [0, 0, 1]
        assert [target("breaker", "u1", state=state) for state in ("closed", "half_open", "open")] == [1, 0, 0]
        assert target("breaker_opened_total", "u0") == 1
        assert site.counted("dragoman_upstream_errors_total", provider="u1", reason=Reason.PROVIDER_FAILED) is None


async def test_failed_runs_by_reason() -> None:
    async with stand(BROKEN) as site:
        assert (await site.ask("hello"))[0] >= 500
        assert site.counted("dragoman_run_failures_total", provider="u0", reason=Reason.PROVIDER_FAILED) == 1
        assert site.counted("dragoman_runs_total", provider="u0", state="failed") == 1


async def test_who_is_served_and_who_waits() -> None:
    provider = ProviderSettings(name="demo", dialect="scripted", max_concurrency=1, max_queue=1)
    models = (ModelSettings(id="m", provider="demo", upstream_model="echo"),)
    async with stand(sections={"providers": (provider,), "models": models}) as site:
        waiting = [asyncio.create_task(site.ask(script(text=["a"], first_delay=3600))) for _ in range(2)]

        def now() -> tuple[float | None, float | None]:
            labels = {"provider": "demo", "model": "echo"}
            return site.counted("dragoman_target_in_flight", **labels), site.counted("dragoman_target_queued", **labels)

        await until(lambda: now() == (1, 1))
        assert site.counted("dragoman_runs_active") == 2
        status, _ = await site.ask("hello")
        assert status in (429, 503)
        assert site.counted("dragoman_target_turned_away_total", provider="demo", model="echo") == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: now() == (0, 0))


async def test_names_that_clients_think_of_are_no_labels() -> None:
    async with stand() as site:
        for name in ("made-up-1", "made-up-2"):
            assert (await site.ask("hello", model=f"u0/{name}"))[0] == 200
        assert site.counted("dragoman_target_attempts_total", provider="u0", model="other") == 2
        assert b"made-up" not in generate_latest(site.core.registry)


async def test_dropped_params_and_emulated_features() -> None:
    model = ModelSettings(
        id="m",
        provider="u0",
        upstream_model="echo",
        unsupported_params="report",
        capabilities={"logprobs": False, "json_object": False},
    )
    async with stand(sections={"models": (model,)}) as site:
        assert (await site.ask("hello", logprobs=True))[0] == 200
        as_json = script(text=['{"a": 1}'])
        assert (await site.ask(as_json, response_format={"type": "json_object"}))[0] == 200
        assert site.counted("dragoman_dropped_params_total", provider="u0", param="sampling.logprobs") == 1
        feature = "response_format.json_object"
        assert site.counted("dragoman_emulated_features_total", provider="u0", feature=feature) == 1


async def test_vectors() -> None:
    async with stand() as site:
        body = {"model": "demo/embed", "input": ["a", "b c"]}
        async with site.client.post("/v1/embeddings", json=body) as response:
            assert response.status == 200
        assert site.counted("dragoman_embeddings_total", provider="demo") == 2
        assert site.counted("dragoman_tokens_total", provider="demo", direction="input") == 3


async def test_bytes_and_streams_of_the_edge() -> None:
    async with stand() as site:
        status, body = await site.ask("hello", stream=True)
        assert status == 200
        _, plain = await site.ask("hello")

        def of_edge(name: str) -> float:
            return site.edge_registry.get_sample_value(f"dragoman_http_{name}") or 0

        assert of_edge("sent_bytes_total") == len(body.encode()) + len(plain.encode())
        assert of_edge("received_bytes_total") > 2 * len('{"model":"m","messages":[]}')
        assert of_edge("open_streams") == 0


async def test_the_page_shows_them() -> None:
    async with stand() as site:
        await site.ask("hello")
        page = generate_latest(site.core.registry).decode()
    for name in ("runs_total", "events_total", "tokens_total", "target_in_flight", "target_breaker"):
        assert f"\ndragoman_{name}{{" in page
