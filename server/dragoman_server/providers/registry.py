"""Makes the configured providers: one row per dialect, imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dragoman_server.providers.base import Provider
    from dragoman_server.settings import LocalSettings, ProviderSettings, Settings

LOCAL_PROVIDER = "local"
"""Name of the embedded model's provider."""


def _openai_chat(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.openai_chat.provider import OpenAIChatProvider

    return OpenAIChatProvider(settings)


def _scripted(settings: ProviderSettings) -> Provider:
    from dragoman_server.providers.scripted import ScriptedProvider

    return ScriptedProvider(settings.name)


DIALECTS: dict[str, Callable[[ProviderSettings], Provider]] = {"openai_chat": _openai_chat, "scripted": _scripted}
"""Who makes a provider, by `ProviderSettings.dialect`."""


def _local(settings: LocalSettings, models_dir: Path) -> Provider:
    from dragoman_server.providers.llamacpp import LlamaCppProvider

    return LlamaCppProvider(
        LOCAL_PROVIDER,
        settings.model,
        models_dir,
        context_tokens=settings.context_tokens,
        parallel=settings.parallel,
        threads=settings.threads,
    )


def make_providers(settings: Settings) -> list[Provider]:
    """Returns the providers of a server, the embedded model first; none is open yet."""
    providers: list[Provider] = []
    if settings.local.enabled:
        providers.append(_local(settings.local, settings.server.data_dir.expanduser() / "models"))
    providers += [DIALECTS[provider.dialect](provider) for provider in settings.providers]
    return providers
