"""The dialect, as the remote provider takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.providers.anthropic_messages.request import encode_request
from dragoman_server.providers.anthropic_messages.response import ResponseReader
from dragoman_server.providers.failures import failure_of_status
from dragoman_server.providers.remote import Call, Dialect

if TYPE_CHECKING:
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.vendors import Quirks

API_VERSION = "2023-06-01"
"""The newest version that still has sampling parameters; servers of other vendors know no other."""


def _encode(request: GenerationRequest, quirks: Quirks) -> Call:
    return Call("/v1/messages", encode_request(request, quirks))


def _reader(request: GenerationRequest) -> ResponseReader:
    return ResponseReader(request.choice_index)


DIALECT = Dialect(
    name="anthropic_messages",
    auth="x-api-key",
    headers={"anthropic-version": API_VERSION},
    encode=_encode,
    reader=_reader,
    failure_of_status=failure_of_status,
    models_path="/v1/models",
)
"""`POST /v1/messages`, whole and streamed."""
