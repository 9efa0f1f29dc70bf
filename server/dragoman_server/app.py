"""The composition root of the core: the only place that constructs its parts."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from prometheus_client import CollectorRegistry

from dragoman_server.accounts.service import Accounts
from dragoman_server.api.account import AccountServicer
from dragoman_server.api.catalog import CatalogServicer
from dragoman_server.api.conversation import ConversationServicer
from dragoman_server.api.credit import CreditServicer
from dragoman_server.api.embedding import EmbeddingServicer
from dragoman_server.api.interceptors import (
    HEALTH_METHODS,
    REFLECTION_METHODS,
    TUNNEL_METHODS,
    AuthInterceptor,
    TraceInterceptor,
)
from dragoman_server.api.persona import PersonaServicer
from dragoman_server.api.request_log import log_when_ended
from dragoman_server.api.run import RunServicer
from dragoman_server.api.server import SERVICES, add_services, make_grpc_server
from dragoman_server.api.tunnel import TunnelServicer
from dragoman_server.api.usage import UsageServicer
from dragoman_server.catalog.service import Catalog
from dragoman_server.clock import system_clock
from dragoman_server.conversations.service import Conversations
from dragoman_server.credits.service import Credits
from dragoman_server.embeddings.service import Embeddings
from dragoman_server.inprocess import InProcessChannel, InProcessServer
from dragoman_server.personas.service import Personas
from dragoman_server.providers.registry import known_facts, make_providers, make_proxy, vendor_of
from dragoman_server.providers.routing.metrics import TargetMetrics
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.ratelimits.service import RateLimits
from dragoman_server.runs.admission import Domains
from dragoman_server.runs.asking import ask
from dragoman_server.runs.service import Runs
from dragoman_server.store.base import StoreUnusable
from dragoman_server.store.database import open_store, sqlite_url
from dragoman_server.tasks import end_tasks
from dragoman_server.telemetry.logs import get_logger
from dragoman_server.telemetry.metrics import CoreMetrics
from dragoman_server.usage.service import Usage, UsageLog

if TYPE_CHECKING:
    import grpc
    from opentelemetry.trace import TracerProvider

    from dragoman_server.settings import Settings
    from dragoman_server.telemetry.tracing import Tracer

logger = get_logger(__name__)

Serving = health_pb2.HealthCheckResponse.ServingStatus


@dataclass(frozen=True, slots=True)
class _Servicers:
    """The servicers of a core; see `api.server.Servicers`."""

    run: RunServicer
    catalog: CatalogServicer
    embedding: EmbeddingServicer
    account: AccountServicer
    credit: CreditServicer
    usage: UsageServicer
    conversation: ConversationServicer
    persona: PersonaServicer
    health: Any


class Core:
    """A core: everything but the REST edge.

    Args:
        settings: The settings.
        bootstrap_key: A secret that shall be an OPERATOR key of the server.
        registry: Where metrics are exposed; its own if not given.
        check_frozen: Whether the in-process channel checks that nobody changes a message (for tests).
        tracer_provider: Where spans go; none are made if not given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        bootstrap_key: str | None = None,
        registry: CollectorRegistry | None = None,
        check_frozen: bool = False,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry or CollectorRegistry()
        self.first_key: str | None = None
        self.grpc_address: str | None = None
        self._bootstrap_key = bootstrap_key
        self._store = open_store(
            store_url(settings),
            pool_size=settings.store.pool_size,
            statement_timeout=settings.store.statement_timeout,
        )
        self.credits = Credits(self._store.ledger, settings.credits, settings.plans)
        plans = (plan.name for plan in settings.plans)
        self.accounts = Accounts(self._store, settings.auth, plans, self.credits.welcome, audit=settings.audit)
        self.rate_limits = RateLimits(settings.rate_limits, settings.plans, self.registry)
        self.usage_log = UsageLog(self._store.usage, settings.usage, self.registry)
        self.conversations = Conversations(self._store.conversations, settings.conversations)
        self.personas = Personas(self._store.personas, settings.personas)
        self.providers = make_providers(settings)
        tracer = None if tracer_provider is None else _make_tracer(tracer_provider, settings)
        self.routing = RoutingTable(
            settings.routing,
            {provider.name: provider for provider in self.providers},
            settings.providers,
            tracer=tracer,
        )
        TargetMetrics(self.registry, self.routing, settings.models)
        self._proxy = make_proxy(settings.proxy)
        self.catalog = Catalog(
            self.providers,
            settings.models,
            settings.default_model,
            self.routing,
            self._proxy,
            known_facts(settings),
        )
        metrics = CoreMetrics(self.registry, lambda: self.runs.active, lambda: self.runs.kept_bytes)
        domains = Domains(self.rate_limits, self.personas, self.conversations, self.credits, self.usage_log)
        self.runs = Runs(
            settings.runs, settings.limits, self.catalog, system_clock, metrics, tracer, settings.vision, domains
        )
        self.conversations.title_maker = functools.partial(ask, self.runs)
        self.embeddings = Embeddings(
            self.catalog,
            settings.default_embedding_model,
            metrics.embedded,
            tracer,
            limits=self.rate_limits,
            credits=self.credits,
            usage=self.usage_log,
        )
        self._health = HealthServicer()
        self._opening: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._inprocess, self._tunnels, self._grpc_server = self._make_servers(tracer, check_frozen)

    def channel(self) -> InProcessChannel:
        """Returns a channel to this core within the process."""
        return self._inprocess.channel()

    async def start(self) -> None:
        """Opens the database and the ports, and begins to open the providers.

        Raises:
            DragomanError: If the database cannot be used.
            OSError: If a port is taken.
        """
        await self._store.migrate()
        await self.accounts.open()
        self.first_key = await self.accounts.keys.bootstrap(self._bootstrap_key)
        await self.credits.start()
        await self.rate_limits.start()
        await self.usage_log.start()
        self.conversations.start()
        self.accounts.start()
        await self._report_health(Serving.NOT_SERVING)
        loop = asyncio.get_running_loop()
        self._opening = [loop.create_task(provider.open()) for provider in self.providers]
        await self._listen(self._grpc_server)
        self._watching = loop.create_task(self._serve_when_ready())

    async def wait_ready(self) -> None:
        """Returns when every provider is ready.

        Raises:
            DragomanError: If one can never become ready; the message says what to do.
        """
        await asyncio.gather(*self._opening)

    async def stop(self, grace: float | None = None) -> None:
        """Takes no new runs, lets the others end, then closes everything.

        Args:
            grace: Seconds that running answers may take before they are cancelled; default as configured.
        """
        grace = self.settings.server.drain_timeout if grace is None else grace
        await self._report_health(Serving.NOT_SERVING)
        await asyncio.gather(self.runs.drain(grace), self.embeddings.drain(grace))
        await self._inprocess.stop(1.0)
        self._tunnels.stop()
        await self._grpc_server.stop(1.0)
        await end_tasks(task for task in (*self._opening, self._watching) if task is not None)
        for provider in self.providers:
            await provider.close()
        if self._proxy is not None:
            await self._proxy.close()
        await self.credits.stop()
        await self.rate_limits.stop()
        await self.usage_log.stop()
        await self.conversations.stop()
        await self.accounts.stop()
        await self._store.close()

    def _make_servers(
        self, tracer: Tracer | None, check_frozen: bool
    ) -> tuple[InProcessServer, TunnelServicer, grpc.aio.Server]:
        """Returns what serves within the process, what serves tunnels, and what serves the ports."""
        settings = self.settings
        servicers = _Servicers(
            RunServicer(self.runs),
            CatalogServicer(self.catalog),
            EmbeddingServicer(self.embeddings),
            AccountServicer(self.accounts, self.rate_limits),
            CreditServicer(self.credits, self.accounts),
            UsageServicer(Usage(self._store.usage), self.accounts),
            ConversationServicer(self.conversations),
            PersonaServicer(self.personas),
            self._health,
        )
        public = HEALTH_METHODS | TUNNEL_METHODS | (REFLECTION_METHODS if settings.server.reflection else frozenset())
        interceptors: list[grpc.aio.ServerInterceptor] = [AuthInterceptor(self.accounts, public)]
        if tracer is not None:
            interceptors.insert(0, TraceInterceptor(tracer.enter))
        limit = settings.limits.max_request_bytes
        inprocess = InProcessServer(interceptors, max_message_bytes=limit, check_frozen=check_frozen)
        add_services(inprocess, servicers)
        tunnels = TunnelServicer(inprocess.channel(), limit)
        if settings.log.requests:  # edges write of their requests themselves
            servicers = replace(servicers, run=RunServicer(self.runs, log_when_ended))
        grpc_server = make_grpc_server(
            servicers, tunnels, interceptors, max_message_bytes=limit, reflection=settings.server.reflection
        )
        return inprocess, tunnels, grpc_server

    async def _listen(self, server: grpc.aio.Server) -> None:
        options = self.settings.server
        address = authority(options.host, options.grpc_port)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} for gRPC: {error}") from error
        if options.grpc_socket is not None:
            server.add_insecure_port(f"unix:{options.grpc_socket}")
        await server.start()
        self.grpc_address = authority(options.host, port)

    async def _serve_when_ready(self) -> None:
        results = await asyncio.gather(*self._opening, return_exceptions=True)
        for provider, result in zip(self.providers, results, strict=True):
            if isinstance(result, Exception):
                logger.error("a provider cannot be used", provider=provider.name, error=str(result))
        if not any(isinstance(result, BaseException) for result in results):
            await self._report_health(Serving.SERVING)

    async def _report_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


def _make_tracer(provider: TracerProvider, settings: Settings) -> Tracer:
    from dragoman_server.telemetry.tracing import Tracer

    vendors = {configured.name: vendor for configured in settings.providers if (vendor := vendor_of(configured))}
    names = {name: vendor.name for name, vendor in vendors.items()}
    return Tracer(provider, names, content=settings.tracing.content)


def authority(host: str, port: int) -> str:
    """Returns an address as gRPC takes it: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def store_url(settings: Settings) -> str:
    """Returns the URL of the database: as configured, or `dragoman.db` in the data folder (which is made).

    Raises:
        StoreUnusable: If the folder cannot be made.
    """
    if settings.store.url is not None:
        return settings.store.url.get_secret_value()
    folder = settings.server.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(f"cannot make the data folder {folder}: {error.strerror}") from error
    return sqlite_url(folder.absolute() / "dragoman.db")
