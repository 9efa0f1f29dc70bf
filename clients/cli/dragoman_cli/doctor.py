"""Looks at everything the server needs and says what is missing; starts and changes nothing, and costs nothing."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_cli import models, ports
from dragoman_cli.output import say
from dragoman_server import configuration
from dragoman_server.errors import DragomanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dragoman_server.settings import ProviderSettings, Settings

PROBE_TIMEOUT = 5.0
"""Seconds that a provider may take for each of at most two answers, and whoever is at our port for one."""


class State(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        subject: The thing.
        state: Whether the server works with it.
        text: What is there, or what to do.
    """

    subject: str
    state: State
    text: str


EXTRAS = {
    "server": ("aiosqlite", "alembic", "argon2", "grpc_health", "grpc_reflection", "jsonschema", "jwt", "sqlalchemy"),
    "edge": ("grpc_health", "httptools", "orjson", "prometheus_client", "pydantic"),
    "local": ("xllamacpp",),
    "postgres": ("psycopg",),
    "redis": ("redis",),
    "litellm": ("litellm",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}
"""The modules that tell whether an extra is installed."""


def doctor(config: Path | None, flags: Mapping[str, object], *, network: bool) -> int:
    """Prints all findings; returns 1 if something is broken, else 0. Without `network`, no provider is called."""
    found = list(findings(config, flags, network=network))
    width = max(len(finding.subject) for finding in found)
    for finding in found:
        first, *rest = finding.text.split("\n")
        say(f"{finding.state:<6}  {finding.subject:<{width}}  {first}")
        for line in rest:
            say(f"{'':<{width + 10}}{line}")
    return 1 if any(finding.state is State.BROKEN for finding in found) else 0


def findings(config: Path | None, flags: Mapping[str, object], *, network: bool) -> Iterator[Finding]:
    """Yields what is found, most basic things first; ends early without usable configuration or extra `server`."""
    yield Finding("python", State.OK, f"{sys.version.split()[0]} ({sys.executable})")
    try:
        file = configuration.find_file(config, os.environ)
        settings = configuration.load(config, os.environ, flags)
    except configuration.ConfigurationError as error:
        yield Finding("configuration", State.BROKEN, str(error))
        return
    yield Finding("configuration", State.OK, str(file) if file else "no file: defaults, environment and options only")
    if unknown := configuration.unknown_variables(os.environ):
        yield Finding("environment", State.NOTE, f"unknown variables, left alone: {', '.join(unknown)}")
    yield from _extras(settings)
    yield _data_dir(settings.server.data_dir)
    yield from _models(settings)
    yield from _ports(settings)
    if _missing("server"):
        return
    yield _database(settings)
    if network:
        yield from asyncio.run(_providers(settings))


def _extras(settings: Settings) -> Iterator[Finding]:
    url = settings.store.url.get_secret_value() if settings.store.url else ""
    needed = {"server": True, "edge": True, "local": settings.local.enabled, "postgres": url.startswith("postgres")}
    needed["redis"] = not settings.rate_limits.storage.get_secret_value().startswith("memory:")
    needed["litellm"] = any(provider.dialect == "litellm" for provider in settings.providers)
    needed["otel"] = settings.tracing.enabled
    for extra in EXTRAS:
        if not _missing(extra):
            yield Finding(f"extra {extra}", State.OK, "installed")
        else:
            state = State.BROKEN if needed[extra] else State.NOTE
            yield Finding(f"extra {extra}", state, f"not installed: pip install 'dragoman[{extra}]'")


def _missing(extra: str) -> bool:
    return not all(_is_installed(module) for module in EXTRAS[extra])


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _data_dir(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data folder", State.BROKEN, f"{folder}: {existing} is no folder that can be written to")
    return Finding("data folder", State.OK, f"{folder}{'' if existing == folder else ' (made at the first start)'}")


def _models(settings: Settings) -> Iterator[Finding]:
    if not settings.local.enabled:
        yield Finding("embedded model", State.NOTE, "switched off")
        if not settings.providers:
            yield Finding("models", State.BROKEN, "no provider is configured, and the embedded model is switched off")
        return
    for name in models.needed(settings):
        try:
            yield _model_file(name, models.folder(settings))
        except (DragomanError, OSError) as error:
            yield Finding("embedded model", State.BROKEN, str(error))


def _model_file(name: str, folder: Path) -> Finding:
    from dragoman_server.providers import model_files

    file = model_files.find(name, folder)
    if file is not None:
        usable = model_files.is_gguf(file)
        text = str(file) if usable else f"{file} is not a GGUF model"
        return Finding("embedded model", State.OK if usable else State.BROKEN, text)
    if name in model_files.KNOWN_MODELS or name.startswith("hf:"):
        text = f"{name} is fetched at the first start, or: dragoman models pull {name}"
        return Finding("embedded model", State.NOTE, text)
    return Finding("embedded model", State.BROKEN, f"there is no file {name}")


def _ports(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    blocked = State.NOTE if _runs_already(server.host, server.port) else State.BROKEN
    for subject, port in (("REST port", server.port), ("gRPC port", server.grpc_port)):
        where = f"{server.host}:{port}" if port else f"{server.host}, any free port"
        if (reason := ports.why_not(server.host, port)) is None:
            yield Finding(subject, State.OK, f"{where} is free")
        else:
            who = "; a Dragoman is running" if blocked is State.NOTE else ""
            yield Finding(subject, blocked, f"{where}: {reason}{who}")


def _runs_already(host: str, port: int) -> bool:
    """Tells whether one of our servers answers at a REST port."""
    if port == 0:
        return False
    connection = http.client.HTTPConnection(f"{ports.url_host(host)}:{port}", timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().getheader("Server") == "dragoman"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _database(settings: Settings) -> Finding:
    from dragoman_server.store.database import sqlite_url
    from dragoman_server.store.migrations import HEAD

    url = settings.store.url.get_secret_value() if settings.store.url else ""
    file = settings.server.data_dir.expanduser().absolute() / "dragoman.db"
    if not url and not file.exists():
        return Finding("database", State.OK, f"{file} is made at the first start")
    try:
        revision = asyncio.run(_revision(url or sqlite_url(file)))
    except DragomanError as error:
        return Finding("database", State.BROKEN, error.message)
    where = "reachable" if url else f"{file} is there"
    if revision is None or revision < HEAD:
        return Finding("database", State.OK, f"{where}; the next start brings its schema to {HEAD}")
    if revision > HEAD:
        return Finding("database", State.BROKEN, f"its schema is {revision}, this program knows it up to {HEAD} only")
    return Finding("database", State.OK, where)


async def _revision(url: str) -> str | None:
    from dragoman_server.store.database import open_store

    store = open_store(url)
    try:
        return await store.revision()
    finally:
        await store.close()


async def _providers(settings: Settings) -> list[Finding]:
    return await asyncio.gather(*map(_provider, settings.providers))


async def _provider(settings: ProviderSettings) -> Finding:
    from dragoman_server.providers.probe import probe

    subject = f"provider {settings.name}"
    try:
        found = await probe(settings, PROBE_TIMEOUT)
    except DragomanError as error:
        return Finding(subject, State.BROKEN, _refusal(settings, error))
    if found is None:
        return Finding(subject, State.OK, "not asked: it has no server of its own")
    answers = f"answers within {found.seconds * 1000:.0f} ms"
    if settings.api_key is None:
        return Finding(subject, State.OK, f"{answers}, without a key")
    if found.key_accepted:
        return Finding(subject, State.OK, f"{answers}, and takes the key")
    return Finding(subject, State.OK, f"{answers}; whether it takes the key only a paid call would show")


def _refusal(settings: ProviderSettings, error: DragomanError) -> str:
    if error.reason != Reason.PROVIDER_AUTH:
        return error.message
    if settings.api_key is not None:
        return "refuses the key"
    variable = configuration.key_variable(settings)
    return "wants a key: set its api_key" + (f", or the variable {variable}" if variable else "")
