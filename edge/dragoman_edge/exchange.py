"""One request, what every call made for it carries, and what every answer to it carries."""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from dragoman_edge.auth import credential_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.response import WholeResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.web import BaseRequest

JSON = {"Content-Type": "application/json"}

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


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
        headers: What every answer to it carries.
        params: The variable parts of its path, decoded.
    """

    __slots__ = ("headers", "params", "request", "request_id")

    def __init__(self, request: BaseRequest, cors_headers: Mapping[str, str]) -> None:
        self.request = request
        given = request.headers.get("X-Request-Id")
        self.request_id = given if given is not None and _SANE_REQUEST_ID.fullmatch(given) else new_request_id()
        self.headers = {"Server": "dragoman", "x-request-id": self.request_id, **cors_headers}
        self.params: dict[str, str] = {}

    def set_params(self, raw: Mapping[str, str]) -> None:
        """Takes the variable parts of the path, as they stand in the request line.

        Raises:
            EdgeError: If one is not UTF-8.
        """
        try:
            self.params = {name: unquote(value, errors="strict") for name, value in raw.items()}
            for value in self.params.values():
                value.encode()  # bytes above 127 that were not percent-encoded
        except UnicodeError:
            raise EdgeError("The path is not valid UTF-8.", code="invalid_path") from None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of the calls made for the request: its id and its credential.

        Raises:
            EdgeError: If the request carries contradicting or malformed credentials.
        """
        credential = credential_of(self.request.headers)
        if credential is None:
            return (("x-request-id", self.request_id),)
        return (("x-request-id", self.request_id), ("authorization", f"Bearer {credential}"))

    def json(self, body: bytes, *, run_id: str = "") -> WholeResponse:
        """Returns a JSON answer."""
        headers = JSON | self.headers
        if run_id:
            headers["x-dragoman-run-id"] = run_id
        return WholeResponse(body, headers)
