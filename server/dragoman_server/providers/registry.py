"""Makes the configured providers, and knows their vendors: one row per dialect, imported on first use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dragoman.v1.catalog_service_pb2 import Model
from dragoman_server.errors import Unimplemented
from dragoman_server.providers.dialects import WIRE_DIALECTS
from dragoman_server.providers.facts import facts_of_vendor
from dragoman_server.providers.vendors import UNKNOWN, Vendor, vendor_of_host, vendors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dragoman_server.providers.base import Provider
    from dragoman_server.providers.facts import Facts
    from dragoman_server.providers.proxy.provider import ProxyProvider
    from dragoman_server.providers.remote import Dialect
    from dragoman_server.settings import LocalSettings, ProviderSettings, ProxySettings, Settings

LOCAL_PROVIDER = "local"
"""Name of the embedded model's provider."""


def dialect_of(settings: ProviderSettings) -> str:
    """Returns the name of the dialect that a provider speaks: its own, or its vendor's."""
    return settings.dialect or vendors()[settings.vendor].dialect


def vendor_of(settings: ProviderSettings) -> Vendor | None:
    """Returns whose server a provider of the configuration is: as it says, or as the address tells.

    None if that is not known, or if the provider speaks another dialect than the vendor's own: what is known of the
    vendor's servers then says nothing about it.
    """
    vendor = vendors().get(settings.vendor) or vendor_of_host(urlsplit(settings.base_url).hostname or "")
    return vendor if vendor is not None and vendor.dialect == dialect_of(settings) else None


def server_of(settings: ProviderSettings, dialect: Dialect) -> Vendor:
    """Returns what is known of a provider's server, or assumed of one that nobody knows, as far as it says nothing."""
    vendor = vendor_of(settings) or Vendor(
        settings.name, settings.name, dialect.name, settings.base_url, dialect.auth, quirks=UNKNOWN
    )
    told = {name: value for name, value in settings.quirks if value is not None}
    if "unsupported" in told:
        told["unsupported"] = frozenset(told["unsupported"])
    return replace(vendor, quirks=replace(vendor.quirks, **told)) if told else vendor


def facts_of_provider(settings: ProviderSettings) -> Mapping[str, Facts]:
    """Returns the built-in facts about a provider's models, by its own names of them."""
    vendor = vendor_of(settings)
    return {} if vendor is None else facts_of_vendor(vendor.name)


def known_facts(settings: Settings) -> Mapping[str, Mapping[str, Facts]]:
    """Returns the built-in facts by provider and model, for the catalogue."""
    return {provider.name: facts_of_provider(provider) for provider in settings.providers}


def _known_models(settings: ProviderSettings) -> Iterator[Model]:
    for name, facts in facts_of_provider(settings).items():
        model = Model(id=name)
        facts.describe(model)
        yield model


def _remote(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.remote import RemoteProvider

    dialect = WIRE_DIALECTS[dialect_of(settings)]()
    return RemoteProvider(settings, dialect, server_of(settings, dialect), tuple(_known_models(settings)))


def _plugin(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.plugin.provider import PluginProvider

    return PluginProvider(settings)


def _litellm(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.litellm_library.provider import LiteLLMProvider

    return LiteLLMProvider(settings)


def _scripted(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.scripted import ScriptedProvider

    return ScriptedProvider(settings.name)


DIALECTS: dict[str, Callable[[ProviderSettings], Provider]] = {
    "openai_chat": _remote,
    "anthropic_messages": _remote,
    "gemini": _remote,
    "plugin": _plugin,
    "litellm": _litellm,
    "scripted": _scripted,
}
"""Who makes a provider, by `ProviderSettings.dialect`."""


def _local(settings: LocalSettings, models_dir: Path) -> Provider:
    from dragoman_server.providers.llamacpp import LlamaCppEmbedder, LlamaCppProvider

    embedder = None
    if settings.embeddings != "off":
        embedder = LlamaCppEmbedder(
            LOCAL_PROVIDER,
            settings.embedding_model or settings.model,
            models_dir,
            pooling=settings.pooling,
            max_tokens=settings.embedding_tokens,
            threads=settings.threads,
        )
    return LlamaCppProvider(
        LOCAL_PROVIDER,
        settings.model,
        models_dir,
        context_tokens=settings.context_tokens,
        parallel=settings.parallel,
        threads=settings.threads,
        embedder=embedder,
        embed_at_start=settings.embeddings == "start",
    )


def make_providers(settings: Settings) -> list[Provider]:
    """Returns the providers of a server, the embedded model first; none is open yet."""
    providers: list[Provider] = []
    if settings.local.enabled:
        providers.append(_local(settings.local, settings.server.data_dir.expanduser() / "models"))
    providers += map(make_provider, settings.providers)
    return providers


def make_proxy(settings: ProxySettings) -> ProxyProvider | None:
    """Returns what calls the servers that requests name, or None if none may be called.

    Raises:
        InvalidRequest: If the allow-list is malformed.
    """
    if not settings.allow:
        return None
    from dragoman_server.providers.dialects import WIRE_DIALECTS
    from dragoman_server.providers.proxy.provider import ProxyProvider

    return ProxyProvider(settings, WIRE_DIALECTS)


def make_provider(settings: ProviderSettings) -> Provider:
    """Makes a provider of the configuration.

    Raises:
        InvalidRequest: If something about it is malformed.
        Unimplemented: If nothing here speaks its dialect.
    """
    dialect = dialect_of(settings)
    make = DIALECTS.get(dialect)
    if make is None:
        raise Unimplemented(f"provider {settings.name}: nothing here speaks the dialect {dialect}", field="dialect")
    return make(settings)
