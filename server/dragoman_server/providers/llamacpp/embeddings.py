"""The embedded model as an embedder: a second instance of llama.cpp, which pools what it reads into one vector.

It has one slot, and gets one input at a time. Several slots that share a batch mix up their texts when vectors are
averaged over tokens, and would not be faster: the processor is the limit. Requests take turns input by input, so that a
large one does not keep the others waiting, and a cancelled one stops after the input that is being read.
"""

from __future__ import annotations

import asyncio
import base64
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import EmbedResponse
from dragoman.vectors import embedding_of
from dragoman_server.errors import (
    ContextLengthExceeded,
    DragomanError,
    InvalidRequest,
    ProviderError,
    Unavailable,
    UnsupportedFeature,
)
from dragoman_server.providers import model_files
from dragoman_server.providers.llamacpp.chunks import failure_of
from dragoman_server.providers.llamacpp.loading import load_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest

_LONGEST_TOKEN = 256
"""Bytes; no vocabulary has longer ones. What is too long even so is not read: a megabyte takes half a second."""
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large")


class LlamaCppEmbedder:
    """Turns texts into vectors of length 1.

    Args:
        name: The configured name of the provider.
        model: What `model_files.find` finds.
        models_dir: The folder of fetched models.
        pooling: How the vectors of the tokens become one: `mean`, `cls` (the first) or `last`.
        max_tokens: Tokens of the longest input.
        threads: Threads that compute; 0 takes the number of cores less one.
        max_waiting: Requests at a time; more are refused with OVERLOADED.
    """

    def __init__(
        self,
        name: str,
        model: str,
        models_dir: Path,
        *,
        pooling: str = "mean",
        max_tokens: int = 512,
        threads: int = 0,
        max_waiting: int = 256,
    ) -> None:
        self.model_id = model_files.model_id(model)
        self.max_tokens = max_tokens
        self._model = model
        self._models_dir = models_dir
        self._pooling = pooling
        self._threads = threads
        self._max_waiting = max_waiting
        self._server: Any = None
        self._loading: asyncio.Future[None] | None = None
        self._closing = False
        self._requests = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"llamacpp-{name}-embeddings")

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._server is not None and not self._closing

    async def open(self) -> None:
        """Loads the model, unless that is done or being done.

        Raises:
            Unavailable: If the embedder is closed.
            DragomanError: If the model cannot be loaded, see `load_server`; the next call tries again.
        """
        if self._closing:
            raise _closed()
        if self._server is None:
            if self._loading is None:
                self._loading = asyncio.get_running_loop().run_in_executor(self._worker, self._load)
                self._loading.add_done_callback(self._loaded)
            await asyncio.shield(self._loading)  # whoever gives up waiting does not stop it for the others

    async def close(self) -> None:
        """Waits for the input that is being read, and frees the model. Requests end with SHUTTING_DOWN."""
        self._closing = True
        await asyncio.to_thread(self._unload)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Returns the vectors and the usage; loads the model if that is not done yet.

        Raises:
            UnsupportedFeature: If the request asks for what the model cannot do.
            InvalidRequest: If an input makes no sense to the model.
            ContextLengthExceeded: If an input is too long.
            Unavailable: If too many requests are being served, or the embedder is closed.
            DragomanError: If the model cannot be loaded, or fails.
        """
        for field in ("dimensions", "task_type"):
            if getattr(request, field):
                raise UnsupportedFeature(f"the embedded model does not know `{field}`: leave it out", field=field)
        if self._requests >= self._max_waiting:
            raise Unavailable(f"{self._requests} requests wait for the embedded model already", retry_after=1.0)
        self._requests += 1
        try:
            await self.open()
            return await self._embed(request)
        finally:
            self._requests -= 1

    async def _embed(self, request: EmbedRequest) -> EmbedResponse:
        loop = asyncio.get_running_loop()
        response = EmbedResponse()
        for index, item in enumerate(request.inputs):
            if self._closing:
                raise _closed()
            if len(item.text) > self.max_tokens * _LONGEST_TOKEN:
                raise _too_long(
                    f"inputs[{index}]", f"more than {self.max_tokens * _LONGEST_TOKEN} characters", self.max_tokens
                )
            answer = await loop.run_in_executor(self._worker, self._compute, item)
            if error := answer.get("error"):
                raise _failure(error, f"inputs[{index}]", self.max_tokens)
            try:
                response.embeddings.append(embedding_of(base64.b64decode(answer["data"][0]["embedding"])))
                response.usage.input_tokens += answer["usage"]["prompt_tokens"]
            except (LookupError, TypeError, ValueError) as error:
                raise ProviderError(
                    f"llama.cpp sent a vector that makes no sense: {error!r}", reason=Reason.PROVIDER_PROTOCOL
                ) from error
        return response

    def _compute(self, item: EmbeddingInput) -> Mapping[str, Any]:
        """Reads one input, on the worker thread."""
        if self._closing:
            raise _closed()
        given: str | list[int] = item.text if item.HasField("text") else list(item.tokens.ids)
        try:
            answer: Mapping[str, Any] = self._server.handle_embeddings({"input": given, "encoding_format": "base64"})
        except Exception as error:  # whatever llama.cpp throws ends this request, never the worker
            raise ProviderError(f"llama.cpp failed: {error!r}", reason=Reason.PROVIDER_FAILED) from error
        return answer

    def _load(self) -> None:
        server = load_server(self._model, self._models_dir, self._threads, "local.embedding_model", self._shape)
        answer = server.handle_embeddings({"input": "."})  # the first computation is slow, and tells whether it can
        if error := answer.get("error"):
            raise ProviderError(f"the model cannot embed: {error.get('message')}", retryable=False)
        self._server = server

    def _shape(self, xllamacpp: Any, params: Any) -> None:
        params.n_ctx = params.n_batch = params.n_ubatch = self.max_tokens  # an input must fit one batch
        params.n_parallel = 1
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type[f"LLAMA_POOLING_TYPE_{self._pooling.upper()}"]

    def _loaded(self, loading: asyncio.Future[None]) -> None:
        self._loading = None
        if not loading.cancelled():
            loading.exception()  # those who wait raise it; if nobody does any more, nothing is lost

    def _unload(self) -> None:
        self._worker.shutdown(wait=True)
        self._server = None  # frees the model


def _closed() -> Unavailable:
    return Unavailable("the embedded model is being shut down", reason=Reason.SHUTTING_DOWN)


def _too_long(field: str, size: str, max_tokens: int) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"{field} has {size}, but at most {max_tokens} tokens can be embedded at once: split it",
        field=field,
        metadata={"context_tokens": str(max_tokens)},
    )


def _failure(error: Mapping[str, Any], field: str, max_tokens: int) -> DragomanError:
    """Returns what an error object of llama.cpp means for an input."""
    message = str(error.get("message", ""))
    if (match := _TOO_LARGE.search(message)) is not None:
        refusal = _too_long(field, f"{match[1]} tokens", max_tokens)
        refusal.metadata["prompt_tokens"] = match[1]
        return refusal
    if error.get("type") == "invalid_request_error":
        return InvalidRequest(f"the model cannot read {field}: {message}", field=field)
    return failure_of(error)
