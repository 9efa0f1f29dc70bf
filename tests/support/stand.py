"""A whole server in this process: an edge before a core before upstream servers, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from dragoman_server.app import Core
from dragoman_server.settings import (
    BreakerSettings,
    LogSettings,
    ModelSettings,
    ProviderSettings,
    RoutingSettings,
    TargetSettings,
)
from tests.support.core import channel_to, running_core
from tests.support.edge import client_of, running_edge
from tests.support.upstream_server import Answer, UpstreamServer, chat

ROUTING = RoutingSettings(backoff=0.01, max_backoff=0.2, breaker=BreakerSettings(failures=1_000_000))


@dataclass
class Stand:
    """The parts, and a client of the edge."""

    core: Core
    client: aiohttp.ClientSession
    upstreams: list[UpstreamServer]
    edge_registry: CollectorRegistry

    async def ask(self, content: str, *, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, str]:
        """Asks for a chat completion of the model `m`; returns status and body."""
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
        async with self.client.post("/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, await response.text()

    def counted(self, name: str, **labels: str) -> float | None:
        """Returns what the core counts."""
        return self.core.registry.get_sample_value(name, labels)


@asynccontextmanager
async def stand(
    *answers: Answer,
    via: str = "inprocess",
    spans: Any = None,
    log_requests: bool = False,
    sections: dict[str, Any] | None = None,
) -> AsyncIterator[Stand]:
    """Yields a stand: one upstream server for each answer, all of them targets of the model `m`.

    `via` says how the edge reaches the core, `spans` is a tracer provider for both.
    """
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(UpstreamServer(answer)) for answer in answers or (chat(),)]
        providers = tuple(
            ProviderSettings(
                name=f"u{i}", dialect="openai_chat", base_url=one.url, api_key=SecretStr("sk-upstream-key-0123456789")
            )
            for i, one in enumerate(servers)
        )
        targets = tuple(TargetSettings(provider=one.name, upstream_model="echo") for one in providers)
        given = {
            "providers": (*providers, ProviderSettings(name="demo", dialect="scripted")),
            "models": (ModelSettings(id="m", targets=targets),),
            "routing": ROUTING,
            "log": LogSettings(requests=log_requests),
            **(sections or {}),
        }
        core = await stack.enter_async_context(running_core(spans, **given))
        channel = await stack.enter_async_context(channel_to(core, via))
        registry = CollectorRegistry()
        settings = {"hold_headers": 5, "keep_alive": 5, "drain_timeout": 2, "log_requests": log_requests}
        edge = await stack.enter_async_context(running_edge(channel, registry=registry, spans=spans, **settings))
        yield Stand(core, await stack.enter_async_context(client_of(edge)), servers, registry)
