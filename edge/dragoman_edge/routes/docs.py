"""`/openapi.json`, and the same as a page to read: plain HTML, nothing fetched from elsewhere."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import orjson

from dragoman_edge.http.response import Response
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dragoman_edge.exchange import Exchange


def docs_routes(all_routes: Callable[[], Sequence[Route]]) -> list[Route]:
    """Returns the routes of the documentation.

    Args:
        all_routes: Returns every route of the edge, these included.
    """

    @cache
    def document() -> dict[str, Any]:
        from dragoman_edge.openapi import build_document

        return build_document(all_routes())

    @cache
    def rendered() -> tuple[bytes, bytes]:
        return orjson.dumps(document()), render_page(document()).encode()

    async def openapi(exchange: Exchange) -> Response:
        return exchange.json(rendered()[0])

    async def docs(exchange: Exchange) -> Response:
        headers = exchange.headers | {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        return Response(rendered()[1], headers)

    return [
        Route(
            "GET",
            "/openapi.json",
            openapi,
            tag="Documentation",
            summary="Returns this description, as OpenAPI 3.1.",
            public=True,
        ),
        Route(
            "GET",
            "/docs",
            docs,
            tag="Documentation",
            summary="Returns this description as a page.",
            answers={"text/html": ""},
            public=True,
        ),
    ]


def render_page(document: dict[str, Any]) -> str:
    """Returns the page that shows an OpenAPI document."""
    chapters: dict[str, list[str]] = {}
    links: list[str] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            chapters.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
            links.append(f'<li><a href="#{escape(operation["operationId"])}">{method.upper()} {escape(path)}</a></li>')
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in chapters.items())
    schemas = "".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    info = document["info"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} "
        f'The same for programs: <a href="/openapi.json">openapi.json</a>.</p><p>Send an API key as '
        f"<code>Authorization: Bearer KEY</code>, <code>x-api-key</code>, <code>api-key</code> or "
        f"<code>x-goog-api-key</code>.</p>"
        f"<ul>{''.join(links)}</ul>{body}<h2>Schemas</h2>{schemas}</body></html>"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font-family:ui-monospace,monospace}table{border-collapse:collapse;margin:.5rem 0}"
    "td,th{border:1px solid #8886;padding:.2rem .6rem;text-align:left;vertical-align:top}"
    "section{margin:1.5rem 0;padding-left:1rem;border-left:3px solid #8886}"
)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    key = "" if operation.get("security") != [] else " <em>No key needed.</em>"
    parts = [
        f'<section id="{escape(operation["operationId"])}"><h3><code>{method.upper()} {escape(path)}</code></h3>',
        f"<p>{escape(operation['summary'])}{key}</p>",
    ]
    if description := operation.get("description"):
        parts.append(f"<p>{escape(description)}</p>")
    if parameters := operation.get("parameters"):
        rows = [(one["name"], one["in"], one.get("description", "")) for one in parameters]
        parts.append(_table(("Parameter", "In", "Meaning"), rows))
    if request := operation.get("requestBody"):
        parts.append(f"<p>Body: {_type(request['content']['application/json']['schema'])}</p>")
    for status, response in operation["responses"].items():
        for media, content in response["content"].items() if status != "default" else ():
            shape = f": {_type(content['schema'])}" if "schema" in content else ""
            parts.append(f"<p>Answers {status} <code>{escape(media)}</code>{shape}</p>")
    return "".join(parts) + "</section>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (member + ("" if member in required else "?"), _Markup(_type(shape)), shape.get("description", ""))
        for member, shape in schema.get("properties", {}).items()
    ]
    head = f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
    return head + (_table(("Member", "Type", "Meaning"), rows) if rows else "") + "</section>"


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return text if isinstance(text, _Markup) else escape(text)

    top = "".join(f"<th>{title}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _type(schema: dict[str, Any]) -> str:
    """Returns what a schema says about its type, in short."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[union]))
    if "enum" in schema:
        return " | ".join(escape(repr(value)) for value in schema["enum"])
    if "const" in schema:
        return escape(repr(schema["const"]))
    if schema.get("type") == "array":
        return f"list of ({_type(schema.get('items', {}))})"
    return escape(str(schema.get("type", "any")))
