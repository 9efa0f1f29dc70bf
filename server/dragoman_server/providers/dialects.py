"""The wire dialects that are spoken to remote servers, by name; each is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman_server.providers.remote import Dialect


def _openai_chat() -> Dialect:
    from dragoman_server.providers.openai_chat.dialect import DIALECT

    return DIALECT


def _anthropic_messages() -> Dialect:
    from dragoman_server.providers.anthropic_messages.dialect import DIALECT

    return DIALECT


def _gemini() -> Dialect:
    from dragoman_server.providers.gemini.dialect import DIALECT

    return DIALECT


WIRE_DIALECTS: Mapping[str, Callable[[], Dialect]] = {
    "openai_chat": _openai_chat,
    "anthropic_messages": _anthropic_messages,
    "gemini": _gemini,
}
"""Returns a dialect, by its name in the configuration and in `ChatSpec.upstream`."""
