"""Chat completions as a dialect, as the remote provider takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.providers.failures import failure_of_status
from dragoman_server.providers.openai_chat.embeddings import EMBEDDINGS
from dragoman_server.providers.openai_chat.request import encode_request
from dragoman_server.providers.openai_chat.response import ResponseReader
from dragoman_server.providers.remote import Call, Dialect

if TYPE_CHECKING:
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.vendors import Quirks


def _encode(request: GenerationRequest, quirks: Quirks, mark: bytes) -> Call:
    return Call("/chat/completions", encode_request(request, quirks, mark))


def _reader(request: GenerationRequest, mark: bytes) -> ResponseReader:
    return ResponseReader(request.choice_index, mark)


DIALECT = Dialect(
    name="openai_chat",
    auth="bearer",
    headers={},
    encode=_encode,
    reader=_reader,
    failure_of_status=failure_of_status,
    embeddings=EMBEDDINGS,
)
"""`POST /chat/completions`, whole and streamed."""
