"""What a client dialect is: a few functions and some data. `registry` has a row for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman.v1.run_pb2 import Run, RunSpec
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.errors import EdgeError
    from dragoman_edge.sse import Renderer


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error, ready to be sent.

    Attributes:
        status: The HTTP status.
        body: The JSON object that tells it.
        headers: What else the answer says: whether and when to try again.
    """

    status: int
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words that a family of routes is answered in.

    Attributes:
        name: Its name.
        render_error: Puts an error into its words.
        load_schemas: Returns the JSON Schemas of its requests and answers by name, for the documentation; routes refer
            to them by these names. Not called before they are needed: it costs more than all else.
        error_schema: Name of the schema of its errors.
        codes: The codes that its errors have, for programs.
        prefixes: What the paths begin with whose errors it tells where there is no route.
        secret_paths: Whether what follows the prefix may hold secrets: errors do not repeat it.
        headers: The headers that only its answers have, and what they tell.
        uuids: Whether its requests are named by UUIDs, where the client does not name them.
    """

    name: str
    render_error: Callable[[EdgeError], ErrorAnswer]
    load_schemas: Callable[[], dict[str, Any]]
    error_schema: str
    codes: frozenset[str]
    prefixes: tuple[str, ...]
    secret_paths: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    uuids: bool = False


@dataclass(slots=True)  # not frozen: that would make it several times as dear, for every request
class Generation:
    """One request for a generation, checked, with what it takes to answer it.

    Attributes:
        fill: Fills an empty spec with what the request asks for.
        render: Renders the whole answer of a run that has ended, or raises what it failed with.
        renderer: Returns what renders its stream; None if the request asks for a whole answer.
        name_of: Puts a path in the contract into the words of the dialect.
        tell: Adds headers of the dialect's own, if it has some: of a run that has ended, and of each batch of a stream
            that comes before its head.
    """

    fill: Callable[[RunSpec], object]
    render: Callable[[Run], bytes]
    renderer: Callable[[], Renderer[StreamRunResponse]] | None
    name_of: Callable[[str], str]
    tell: Callable[[dict[str, str], Run | StreamRunResponse], None] | None = None
