"""Runs the server: composes core and edge in this process, announces them, and drains them when asked to stop.

The first SIGTERM or SIGINT drains: nothing new is accepted, running answers may end within `server.drain_timeout`, then
they are cancelled. The second one ends the process at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING

from dragoman_cli import announcement, models, ports
from dragoman_cli.output import CommandError, say
from dragoman_cli.settings import bootstrap_key, load_settings
from dragoman_server.errors import DragomanError
from dragoman_server.telemetry.logs import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    import grpc
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from dragoman_edge.settings import EdgeSettings
    from dragoman_server.app import Core
    from dragoman_server.settings import Settings, TracingSettings
    from dragoman_server.telemetry.export import Exporting

    Stop = Callable[[float], Awaitable[None]]
    """Stops a part: nothing new is accepted, and what goes on may end within the given seconds."""
    Compose = Callable[[Settings, list[Stop], TracerProvider | None], Awaitable[None]]
    """Starts all parts until they are ready, and notes how each is stopped as soon as it needs to be; spans, if any
    are made, go to the given provider."""

log = get_logger(__name__)

LAST_WORDS = 2.0
"""Seconds that the edge waits longer than the core, so that clients are still told of the runs that it cancels."""


def up(config: Path | None, flags: Mapping[str, object]) -> int:
    """Runs core, gRPC port and REST edge in one process; returns the exit code.

    Raises:
        CommandError: If the server cannot start.
    """
    return _run(load_settings(config, flags), _compose_all, needs_core=True, needs_edge=True)


def core(config: Path | None, flags: Mapping[str, object]) -> int:
    """Runs the core with its gRPC port; returns the exit code.

    Raises:
        CommandError: If the server cannot start.
    """
    return _run(load_settings(config, flags), _compose_core, needs_core=True, needs_edge=False)


def edge(core_address: str, config: Path | None, flags: Mapping[str, object]) -> int:
    """Runs a REST edge in front of the core at a gRPC address; returns the exit code.

    Raises:
        CommandError: If the edge cannot start.
    """

    async def compose(settings: Settings, stops: list[Stop], spans: TracerProvider | None) -> None:
        await _compose_edge(settings, stops, spans, core_address)

    return _run(load_settings(config, flags), compose, needs_core=False, needs_edge=True)


async def _compose_all(settings: Settings, stops: list[Stop], spans: TracerProvider | None) -> None:
    core = await _start_core(settings, stops, spans)
    url = await _start_edge(settings, stops, spans, core.channel(), core.registry)
    say(announcement.addresses(url=url, grpc=core.grpc_address))
    say(announcement.keys(core.first_key))
    await core.wait_ready()
    say(announcement.first_request(url, core.first_key))


async def _compose_core(settings: Settings, stops: list[Stop], spans: TracerProvider | None) -> None:
    core = await _start_core(settings, stops, spans)
    say(announcement.addresses(url=None, grpc=core.grpc_address))
    say(announcement.keys(core.first_key))
    await core.wait_ready()
    say("Ready.")


async def _compose_edge(settings: Settings, stops: list[Stop], spans: TracerProvider | None, core_address: str) -> None:
    import grpc
    from prometheus_client import CollectorRegistry

    from dragoman.tunnel import TunnelChannel

    limit = settings.limits.max_request_bytes
    options = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.keepalive_time_ms", 20_000),  # notices a core that is gone though its connection is not
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    channel = TunnelChannel(grpc.aio.insecure_channel(core_address, options=options))
    channel.get_state(try_to_connect=True)  # so that the tunnel stands before the first request
    url = await _start_edge(settings, stops, spans, channel, CollectorRegistry(), after=channel.close)
    say(announcement.addresses(url=url, grpc=None))


async def _start_core(settings: Settings, stops: list[Stop], spans: TracerProvider | None) -> Core:
    from dragoman_server.app import Core

    core = Core(settings, bootstrap_key=bootstrap_key(), tracer_provider=spans)
    stops.append(core.stop)
    await core.start()
    return core


async def _start_edge(
    settings: Settings,
    stops: list[Stop],
    spans: TracerProvider | None,
    channel: grpc.aio.Channel,
    registry: CollectorRegistry,
    after: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Starts an edge and returns its URL; `after` is called when it has stopped."""
    from dragoman_edge.app import start_edge

    edge = await start_edge(channel, edge_settings(settings), registry, spans)

    async def stop(_grace: float) -> None:  # its settings tell it the same
        await edge.stop()
        if after is not None:
            await after()

    stops.append(stop)
    return f"http://{ports.url_host(edge.host)}:{edge.port}"


def _run(settings: Settings, compose: Compose, *, needs_core: bool, needs_edge: bool) -> int:
    server = settings.server
    configure(settings.log)
    if needs_edge:
        ports.require(server.host, server.port, "--port")
    if needs_core:
        ports.require(server.host, server.grpc_port, "--grpc-port")
        if settings.local.enabled:
            models.ensure(settings)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(settings, compose))
    except DragomanError as error:
        raise CommandError(error.message) from error
    except OSError as error:
        raise CommandError(str(error)) from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:  # not made for every platform
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, compose: Compose) -> int:
    """Starts the parts, waits for a signal, and stops them; returns the exit code."""
    stops: list[Stop] = []
    tracing = _open_tracing(settings.tracing) if settings.tracing.enabled else None
    stopping = _stop_on_signals()
    starting = asyncio.ensure_future(compose(settings, stops, tracing.provider if tracing else None))
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            gc.freeze()  # what stands now stays; the start has left next to no garbage
            await stopped
        else:
            starting.cancel()
    finally:
        grace = settings.server.drain_timeout if stopping.is_set() else 0.0
        if stopping.is_set():
            log.info("stopping; once more stops at once", drain_timeout=grace)
        await asyncio.gather(starting, return_exceptions=True)
        results = await asyncio.gather(*(stop(grace) for stop in stops), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.exception("a part did not stop cleanly", exc_info=result)
        stopped.cancel()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    return 0


def _open_tracing(settings: TracingSettings) -> Exporting:
    """Returns the way to the collector.

    Raises:
        CommandError: If the extra is missing.
    """
    try:
        from dragoman_server.telemetry.export import Exporting
    except ModuleNotFoundError as error:
        raise CommandError('traces need the extra `otel`: pip install "dragoman[otel]"') from error
    return Exporting(settings)


def _stop_on_signals() -> asyncio.Event:
    """Returns an event that the first signal sets; the second one ends the process."""
    stopping = asyncio.Event()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopping


def edge_settings(settings: Settings) -> EdgeSettings:
    """Returns the part of the settings that the edge needs."""
    from dragoman_edge.settings import EdgeSettings

    limits, sse = settings.limits, settings.sse
    return EdgeSettings(
        host=settings.server.host,
        port=settings.server.port,
        max_request_bytes=limits.max_request_bytes,
        max_json_depth=limits.max_json_depth,
        max_header_bytes=limits.max_header_bytes,
        max_connections=limits.max_connections,
        body_timeout=limits.body_timeout,
        idle_timeout=limits.idle_timeout,
        hold_headers=sse.hold_headers,
        keep_alive=sse.keep_alive,
        write_buffer=sse.write_buffer,
        slow_reader_timeout=settings.runs.slow_reader_timeout,
        log_requests=settings.log.requests,
        cors_origins=settings.cors.origins,
        drain_timeout=settings.server.drain_timeout + LAST_WORDS,
        proxy_default_model=settings.proxy.default_model,
        proxy_default_names=settings.proxy.default_model_names,
        soke_model=settings.soke.model,
    )
