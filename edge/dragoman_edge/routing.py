"""The route table: what the edge answers, and what its documentation says. There is no other list of routes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dragoman.reasons import Reason
from dragoman_edge.auth import in_headers
from dragoman_edge.dialects.registry import OPENAI, dialect_of
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from dragoman_edge.auth import FindCredential
    from dragoman_edge.dialects.dialect import Dialect
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream

    Handler = Callable[[Exchange], Awaitable[Response | Stream]]

_PARAM = re.compile(r"\\{(\w+)(\\\.\\\.\\\.)?\\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation, beside those in its path.

    Attributes:
        name: Its name.
        place: `query` or `header`.
        description: What it means.
        schema: Its JSON Schema.
    """

    name: str
    place: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        method: The HTTP method. GET answers HEAD too, unless it streams.
        path: The path; `{name}` is a segment, `{name...}` may hold slashes.
        handler: Answers it.
        tag: The chapter of the documentation.
        summary: What it does, in one line.
        description: What else is to be said.
        parameters: Its parameters.
        request: Name of the schema of its JSON body; empty if it takes none.
        answers: Media types of its good answer, with the name of the schema of each; empty if it has no schema.
        status: The status of its good answer; that of an event stream is 200.
        streams: Whether the answer may be an event stream.
        public: Whether it needs no API key.
        documented: Whether the documentation lists it.
        instead: A header in lower case, and the route of the requests that carry it: two dialects may share a path.
        dialect: The words in which its errors are told.
        key_header: For the documentation: the header, in lower case, in which `find_credential` looks first.
        find_credential: Finds the credential of its requests.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    request: str = ""
    answers: Mapping[str, str] = field(default_factory=lambda: {"application/json": ""})
    status: int = 200
    streams: bool = False
    public: bool = False
    documented: bool = True
    instead: tuple[str, Route] | None = None
    dialect: Dialect = OPENAI
    key_header: str = ""
    find_credential: FindCredential = in_headers


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for path, methods in by_path.items():
            if (head := methods.get("GET")) is not None and not head.streams:
                methods.setdefault("HEAD", head)
            if "{" in path:
                self._patterns.append((_pattern(path), methods))
            else:
                self._exact[path] = methods

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        """Returns the routes of a path by method, and the variable parts of the path, still encoded.

        Raises:
            EdgeError: If there are none.
        """
        if (methods := self._exact.get(path)) is not None:
            return methods, {}
        for pattern, methods in self._patterns:
            if (match := pattern.fullmatch(path)) is not None:
                return methods, match.groupdict()
        dialect = dialect_of(path)
        shown = dialect.prefixes[0] + "..." if dialect.secret_paths else path[:200]
        shown = shown.encode("ascii", "backslashreplace").decode()
        raise EdgeError(f"Unknown request URL: {shown}", reason=Reason.NOT_FOUND, code="unknown_url")


def decoded(params: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the variable parts of a path decoded, which were as they stand in the request line.

    Raises:
        EdgeError: If one is not UTF-8.
    """
    try:
        return {name: unquote(value, errors="strict") for name, value in params.items()}
    except UnicodeError:
        raise EdgeError("The path is not valid UTF-8.", code="invalid_path") from None


def allowed_methods(methods: Mapping[str, Route]) -> str:
    """Returns the methods of a resource, as the Allow header lists them."""
    return ", ".join(sorted((*methods, "OPTIONS")))


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(_PARAM.sub(lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", re.escape(path)))
