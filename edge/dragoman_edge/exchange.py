"""One request, what every call made for it carries, and what every answer to it carries."""

from __future__ import annotations

import itertools
import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.response import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.facts import HeadFacts
    from dragoman_edge.http.request import Request
    from dragoman_edge.request_log import Served

JSON = {"Content-Type": "application/json"}
_JSON_LINE = "Content-Type: application/json\r\n"

_MOST_QUERY_FIELDS = 100


# A random part for the process and a count: unique as a random id is, without asking the kernel for each.
_PROCESS = os.urandom(8).hex()
_count = itertools.count()


def new_request_id() -> str:
    """Returns a name for a request that has none."""
    return f"req_{_PROCESS}{next(_count):016x}"


class Exchange:
    """A request on its way to an answer.

    Attributes:
        request: The request.
        facts: What its head decides.
        request_id: The client's name of it, if that is sane, else a new one.
        headers: What every answer to it carries.
        trace: The trace that its calls belong to, as metadata; empty when nobody traces.
        served: Takes note of what becomes of it, if anyone wants to know.
    """

    __slots__ = ("facts", "headers", "request", "request_id", "served", "trace")

    def __init__(self, request: Request, facts: HeadFacts) -> None:
        self.request = request
        self.facts = facts
        name = facts.request_id
        if not name:
            name = str(uuid.uuid4()) if facts.dialect.uuids else new_request_id()
        self.request_id = name
        self.headers = {"x-request-id": name, **facts.cors}
        self.trace: tuple[tuple[str, str], ...] = ()
        self.served: Served | None = None

    @property
    def params(self) -> Mapping[str, str]:
        """The variable parts of its path, decoded."""
        return self.facts.params

    def header(self, name: str) -> str | None:
        """Returns the value of a header that the core is told of; None if it is not there.

        Raises:
            EdgeError: If it is not UTF-8.
        """
        value = self.request.headers.get(name.lower())
        if value is not None:
            try:
                value.encode()
            except UnicodeError:
                raise EdgeError(f"The header {name} is not valid UTF-8.", param=name) from None
        return value

    def query(self) -> dict[str, str]:
        """Returns the query, decoded; of a field that comes twice, the first counts.

        Raises:
            EdgeError: If it is not UTF-8, or has too many fields.
        """
        try:
            fields = parse_qsl(
                self.request.query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_QUERY_FIELDS
            )
        except ValueError:
            message = f"The query is not valid UTF-8, or has more than {_MOST_QUERY_FIELDS} fields."
            raise EdgeError(message, code="invalid_query") from None
        return dict(reversed(fields))

    def credential(self) -> str | None:
        """Returns the credential, or None if there is none.

        Raises:
            EdgeError: If the request carries contradicting or malformed credentials.
        """
        return self.facts.find_credential(self)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of the calls made for the request: its id and its credential.

        Raises:
            EdgeError: If the request carries contradicting or malformed credentials.
        """
        facts = self.facts
        if facts.credential is None:
            facts.credential = _as_metadata(self.credential())
        return (("x-request-id", self.request_id), *facts.credential, *self.trace)

    def require_credential(self) -> None:
        """Does nothing for a request with a credential. Whether it is good is for the core to say.

        Raises:
            EdgeError: If there is none, or it is malformed.
        """
        if not self.facts.credential and self.credential() is None:
            message = "An API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`."
            raise EdgeError(message, reason=Reason.API_KEY_MISSING)

    def metadata_with(self, credential: str | None) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of calls with a credential, which was checked."""
        return (("x-request-id", self.request_id), *_as_metadata(credential), *self.trace)

    def json(self, body: bytes, *, run_id: str = "", lines: str = "") -> Response:
        """Returns a JSON answer.

        Args:
            body: What it says.
            run_id: The run that it is the answer of, if it is one.
            lines: More headers, written already; see `Response`.
        """
        if run_id.isidentifier():  # as ours are: it cannot hold a line break
            lines = f"{lines}x-dragoman-run-id: {run_id}\r\n"
        elif run_id:
            self.headers["x-dragoman-run-id"] = run_id
        return Response(body, self.headers, lines=_JSON_LINE + lines)


def _as_metadata(credential: str | None) -> tuple[tuple[str, str], ...]:
    return () if credential is None else (("authorization", f"Bearer {credential}"),)
