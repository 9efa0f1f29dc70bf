"""One request, what every call made for it carries, and what every answer to it carries."""

from __future__ import annotations

import itertools
import os
import re
import uuid
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from dragoman_edge.auth import credential_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.response import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.http.request import Request
    from dragoman_edge.request_log import Served

JSON = {"Content-Type": "application/json"}

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_MOST_QUERY_FIELDS = 100
_NO_PARAMS: Mapping[str, str] = {}


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
        request_id: The client's name of it, if that is sane, else a new one.
        named: Whether its name stays: the client gave it, or the dialect did.
        headers: What every answer to it carries.
        key_header: The header whose key counts alone if it is there; see `credential_of`.
        params: The variable parts of its path, decoded.
        trace: The trace that its calls belong to, as metadata; empty when nobody traces.
        served: Takes note of what becomes of it, if anyone wants to know.
    """

    __slots__ = ("headers", "key_header", "named", "params", "request", "request_id", "served", "trace")

    def __init__(self, request: Request, cors_headers: Mapping[str, str]) -> None:
        self.request = request
        given = request.headers.get("x-request-id")
        self.named = given is not None and _SANE_REQUEST_ID.fullmatch(given) is not None
        if given is None or not self.named:
            given = new_request_id()
        self.request_id = given
        self.headers = {"x-request-id": given, **cors_headers}
        self.key_header = ""
        self.params = _NO_PARAMS
        self.trace: tuple[tuple[str, str], ...] = ()
        self.served: Served | None = None

    def name_by_uuid(self) -> None:
        """Gives the request a UUID for its name, unless the client named it."""
        if not self.named:
            self.named = True
            self.request_id = self.headers["x-request-id"] = str(uuid.uuid4())

    def set_params(self, raw: Mapping[str, str]) -> None:
        """Takes the variable parts of the path, as they stand in the request line.

        Raises:
            EdgeError: If one is not UTF-8.
        """
        try:
            self.params = {name: unquote(value, errors="strict") for name, value in raw.items()}
        except UnicodeError:
            raise EdgeError("The path is not valid UTF-8.", code="invalid_path") from None

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

    def metadata(self, given: str | None = None) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of the calls made for the request: its id and its credential.

        Args:
            given: A credential from elsewhere than the headers.

        Raises:
            EdgeError: If the request carries contradicting or malformed credentials.
        """
        return self.metadata_with(credential_of(self.request, given, key_header=self.key_header))

    def metadata_with(self, credential: str | None) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of calls with a credential, which was checked."""
        if credential is None:
            return (("x-request-id", self.request_id), *self.trace)
        return (("x-request-id", self.request_id), ("authorization", f"Bearer {credential}"), *self.trace)

    def json(self, body: bytes, *, run_id: str = "") -> Response:
        """Returns a JSON answer."""
        headers = {**JSON, **self.headers, "x-dragoman-run-id": run_id} if run_id else JSON | self.headers
        return Response(body, headers)
