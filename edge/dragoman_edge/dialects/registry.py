"""The client dialects. A new one is a folder beside this file, a row here, and its routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dragoman_edge.dialects.alchemyst import chat_errors as alchemyst_chat_errors
from dragoman_edge.dialects.alchemyst import errors as alchemyst_errors
from dragoman_edge.dialects.dialect import Dialect
from dragoman_edge.dialects.gemini import errors as gemini_errors
from dragoman_edge.dialects.openai import errors as openai_errors
from dragoman_edge.dialects.soke import errors as soke_errors
from dragoman_edge.dialects.soke import headers as soke_headers

REFERENCE = "#/components/schemas/{model}"
"""Where the documentation has the schemas."""


def _openai_schemas() -> dict[str, Any]:
    from dragoman_edge.dialects.openai.documentation import load_schemas

    return load_schemas(REFERENCE)


def _gemini_schemas() -> dict[str, Any]:
    from dragoman_edge.dialects.gemini.schemas import json_schemas

    prefix = "gemini."  # other dialects have a Model and a Tool too
    schemas = json_schemas(REFERENCE.replace("{model}", prefix + "{model}"))
    return {prefix + name: schema for name, schema in schemas.items()}


def _openai_proxy_schemas() -> dict[str, Any]:
    from dragoman_edge.dialects.alchemyst.documentation import load_proxy_schemas

    return load_proxy_schemas()


def _alchemyst_schemas() -> dict[str, Any]:
    from dragoman_edge.dialects.alchemyst.documentation import load_chat_schemas

    return load_chat_schemas(REFERENCE)


def _soke_schemas() -> dict[str, Any]:
    from dragoman_edge.dialects.soke.documentation import load_schemas

    return load_schemas(REFERENCE)


OPENAI = Dialect(
    name="openai",
    render_error=openai_errors.render_error,
    load_schemas=_openai_schemas,
    error_schema="Error",
    codes=frozenset(row.code for row in openai_errors.TABLE.values() if row.code),
    prefixes=("/",),
)
GEMINI = Dialect(
    name="gemini",
    render_error=gemini_errors.render_error,
    load_schemas=_gemini_schemas,
    error_schema="gemini.ErrorResponse",
    codes=frozenset(row.status for row in gemini_errors.TABLE.values()),
    prefixes=("/v1beta/",),
)
OPENAI_PROXY = Dialect(
    name="openai_proxy",
    render_error=alchemyst_errors.render_openai_error,
    load_schemas=_openai_proxy_schemas,
    error_schema="proxy.Error",
    codes=alchemyst_errors.CODES,
    prefixes=("/api/v1/proxy/",),
    secret_paths=True,
)
ALCHEMYST_CHAT = Dialect(
    name="alchemyst",
    render_error=alchemyst_chat_errors.render_chat_error,
    load_schemas=_alchemyst_schemas,
    error_schema="alchemyst.Error",
    codes=frozenset(),
    prefixes=("/api/v1/chat",),
)
"""Its families of routes differ in how they tell errors."""
ALCHEMYST_LISTS = replace(
    ALCHEMYST_CHAT, render_error=alchemyst_chat_errors.render_list_error, error_schema="alchemyst.ListError"
)
ALCHEMYST_STORED = replace(
    ALCHEMYST_CHAT, render_error=alchemyst_chat_errors.render_stored_error, error_schema="alchemyst.StoredError"
)
SOKE = Dialect(
    name="soke",
    render_error=soke_errors.render_error,
    load_schemas=_soke_schemas,
    error_schema="soke.Error",
    codes=soke_errors.CODES,
    prefixes=(
        *("/api/v1/auth/", "/api/v1/chat/completions", "/api/v1/conversations", "/api/v1/connections"),
        # Its content services: clients that ask for one that is not there shall understand the answer.
        *("/api/v1/research/", "/api/v1/content/", "/api/v1/tags/", "/api/v1/trends/", "/api/v1/competitor/"),
        *("/api/v1/thumbnail/", "/api/v1/transcription", "/api/v1/jobs/"),
    ),
    headers=soke_headers.HEADERS,
    uuids=True,
)
GEMINI_PROXY = replace(GEMINI, name="gemini_proxy", render_error=alchemyst_errors.render_gemini_error)
"""It has no paths of its own where there is no route."""
DIALECTS = (GEMINI, OPENAI_PROXY, SOKE, ALCHEMYST_CHAT, OPENAI)
"""The first that has a prefix of a path tells its errors."""


def dialect_of(path: str) -> Dialect:
    """Returns the dialect in which a path without a route is answered."""
    return next((dialect for dialect in DIALECTS if path.startswith(dialect.prefixes)), OPENAI)
