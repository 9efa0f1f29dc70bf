"""The dialect, as the remote provider takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.providers.anthropic_messages.request import encode_request
from dragoman_server.providers.anthropic_messages.response import ResponseReader
from dragoman_server.providers.failures import failure_of_status
from dragoman_server.providers.remote import Dialect

if TYPE_CHECKING:
    from dragoman_server.providers.base import GenerationRequest

API_VERSION = "2023-06-01"
"""The newest version that still has sampling parameters; servers of other vendors know no other."""


def _reader(request: GenerationRequest, mark: bytes) -> ResponseReader:
    return ResponseReader(request.choice_index, mark)


def _full_path(path: str) -> str:
    return path if path.endswith("/v1") else f"{path}/v1"


DIALECT = Dialect(
    name="anthropic_messages",
    auth="x-api-key",
    headers={"anthropic-version": API_VERSION},
    encode=encode_request,
    reader=_reader,
    failure_of_status=failure_of_status,
    full_path=_full_path,
)
"""`POST /messages`, whole and streamed."""
