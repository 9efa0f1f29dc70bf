"""A real core for tests, and the channels that lead to it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr

from dragoman.tunnel import TunnelChannel
from dragoman_server.app import Core
from dragoman_server.inprocess import InProcessChannel
from dragoman_server.settings import (
    BreakerSettings,
    LocalSettings,
    ModelSettings,
    ProviderSettings,
    RoutingSettings,
    RunSettings,
    ServerSettings,
    Settings,
    StoreSettings,
)

KEY = "a-secret-for-tests-only"
METADATA = (("authorization", f"Bearer {KEY}"),)
CHANNELS = ("inprocess", "tcp", "unix", "tunnel")

ONCE = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=1_000_000, cooldown=1e-6, max_cooldown=1e-6))
"""Failures are passed on as they come and keep no other request away: most tests are about those, not about routing."""

AnyChannel = grpc.aio.Channel | InProcessChannel


def core_settings(folder: Path, **sections: Any) -> Settings:
    """Returns settings of a core with the scripted provider as `demo`, and no embedded model."""
    return Settings(
        **{
            "server": ServerSettings(grpc_port=0, grpc_socket=folder / "core.sock", data_dir=folder),
            "store": StoreSettings(url=SecretStr("memory:")),
            "local": LocalSettings(enabled=False),
            "providers": (ProviderSettings(name="demo", dialect="scripted"),),
            "models": (ModelSettings(id="fast", provider="demo", upstream_model="echo"),),
            "runs": RunSettings(),
            "routing": ONCE,
            **sections,
        }
    )


@asynccontextmanager
async def running_core(tracer_provider: Any = None, **sections: Any) -> AsyncIterator[Core]:
    """Yields a started core; messages on its in-process channel are checked to stay unchanged."""
    with tempfile.TemporaryDirectory(prefix="dgm") as folder:
        settings = core_settings(Path(folder), **sections)
        core = Core(settings, bootstrap_key=KEY, check_frozen=True, tracer_provider=tracer_provider)
        await core.start()
        await core.wait_ready()
        try:
            yield core
        finally:
            await core.stop(0)


@asynccontextmanager
async def channel_to(core: Core, kind: str) -> AsyncIterator[AnyChannel]:
    """Yields a channel of one of the CHANNELS kinds."""
    if kind == "inprocess":
        yield core.channel()
        return
    target = f"unix:{core.settings.server.grpc_socket}" if kind == "unix" else core.grpc_address
    assert target is not None
    async with grpc.aio.insecure_channel(target) as channel:
        if kind == "tunnel":
            channel = TunnelChannel(channel)
            await channel.channel_ready()
        yield channel
        await channel.close()
