"""The Gemini API (`generateContent`) as a dialect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.failures import failure_of_status
from dragoman_server.providers.gemini.embeddings import embedding_dialect
from dragoman_server.providers.gemini.request import encode_request
from dragoman_server.providers.gemini.response import ResponseReader
from dragoman_server.providers.remote import Call, Dialect

if TYPE_CHECKING:
    from dragoman_server.providers.base import GenerationRequest
    from dragoman_server.providers.vendors import Quirks

_COLLECTIONS = ("models/", "tunedModels/")
"""Beginnings of a model's name that already say where it is."""

_VERSION = re.compile(r"/v\d")


def _encode(request: GenerationRequest, quirks: Quirks, mark: bytes) -> Call:
    method = "streamGenerateContent?alt=sse" if request.incremental else "generateContent"
    return Call(f"/{_resource(request.model)}:{method}", encode_request(request, quirks, mark))


def _resource(model: str) -> str:
    name = model if model.startswith(_COLLECTIONS) else f"models/{model}"
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise InvalidRequest("the model's name is no name of this provider's", field="model")
    return quote(name, safe="/@-._~")


def _reader(request: GenerationRequest, mark: bytes) -> ResponseReader:
    return ResponseReader(request.choice_index, mark)


def _full_path(path: str) -> str:
    """The API has several versions, and clouds put more behind them than models."""
    return path if _VERSION.search(path) else f"{path}/v1beta"


DIALECT = Dialect(
    name="gemini",
    auth="x-goog-api-key",
    headers={},
    encode=_encode,
    reader=_reader,
    failure_of_status=failure_of_status,
    embeddings=embedding_dialect(_resource),
    full_path=_full_path,
)
