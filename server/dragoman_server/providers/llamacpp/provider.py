"""The provider of the embedded model: loads it, and shares its slots among generations."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.sampling_pb2 import Modality
from dragoman_server.errors import NotFound, ProviderError, Unavailable, UnsupportedFeature
from dragoman_server.providers import model_files
from dragoman_server.providers.llamacpp.chunks import ChunkReader, failure_of
from dragoman_server.providers.llamacpp.generation import LlamaCppGeneration
from dragoman_server.providers.llamacpp.loading import load_server
from dragoman_server.providers.llamacpp.request import chat_body

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman_server.providers.base import GenerationRequest, GenerationSink
    from dragoman_server.providers.llamacpp.embeddings import LlamaCppEmbedder

_PROMPT_BATCH = 64
"""Tokens of a prompt that are computed at a time. Between batches other generations get their tokens, and a cancelled
one lets go of its slot: larger batches read a long prompt a little faster, and make everyone else wait longer."""
_CONTEXT_STEP = 256


class LlamaCppProvider:
    """The embedded model. One request of `context_tokens` runs in each of `parallel` slots; more requests wait.

    Args:
        name: The configured name.
        model: What `model_files.find` finds.
        models_dir: The folder of fetched models.
        context_tokens: Tokens of prompt and answer together, of each request; rounded up to a multiple of 256.
        parallel: Requests that are generated at a time.
        threads: Threads that compute; 0 takes the number of cores less one.
        max_waiting: Requests that wait; more are refused with OVERLOADED.
        embedder: Turns texts into vectors, with the same model or another; None if nobody does.
        embed_at_start: Whether the embedder is made ready with the model; if not, its first request does that.
    """

    def __init__(
        self,
        name: str,
        model: str,
        models_dir: Path,
        *,
        context_tokens: int = 2048,
        parallel: int = 4,
        threads: int = 0,
        max_waiting: int = 256,
        embedder: LlamaCppEmbedder | None = None,
        embed_at_start: bool = False,
    ) -> None:
        self._name = name
        self._model = model
        self._model_id = model_files.model_id(model)
        self._models_dir = models_dir
        self._context_tokens = -(-context_tokens // _CONTEXT_STEP) * _CONTEXT_STEP  # what llama.cpp would make of it
        self._parallel = parallel
        self._threads = threads
        self._max_waiting = max_waiting
        self._embedder = embedder
        self._embed_at_start = embed_at_start
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._ready = False
        self._closing = False
        # Dicts as ordered sets. A cancelled generation stays in `running` until its thread, and so its slot, is free.
        self._waiting: dict[LlamaCppGeneration, None] = {}
        self._running: dict[LlamaCppGeneration, None] = {}
        self._workers = ThreadPoolExecutor(parallel, thread_name_prefix=f"llamacpp-{name}")

    @property
    def name(self) -> str:
        """The configured name."""
        return self._name

    @property
    def models(self) -> Sequence[Model]:
        """The model that chats, and the one that embeds, if that is another."""
        embedder = self._embedder
        models = [
            self._describe(
                self._model,
                self._model_id,
                self._context_tokens,
                ModelCapabilities(
                    chat=True,
                    json_schema=True,
                    json_object=True,
                    logprobs=True,
                    embeddings=self._embeds(self._model_id),
                ),
            )
        ]
        if embedder is not None and embedder.model_id != self._model_id:
            capabilities = ModelCapabilities(embeddings=True)
            models.append(self._describe("", embedder.model_id, embedder.max_tokens, capabilities))
        return models

    def _describe(self, name: str, model_id: str, context_tokens: int, capabilities: ModelCapabilities) -> Model:
        known = model_files.KNOWN_MODELS.get(name)
        return Model(
            id=model_id,
            owner=known.owner if known else self._name,
            provider=self._name,
            upstream_model=model_id,
            context_length=context_tokens,
            input_modalities=[Modality.MODALITY_TEXT],
            output_modalities=[Modality.MODALITY_TEXT] if capabilities.chat else [],
            capabilities=capabilities,
            ready=self._ready,
        )

    def _embeds(self, model_id: str) -> bool:
        return self._embedder is not None and self._embedder.model_id == model_id

    @property
    def serves_any(self) -> bool:
        """False: there are these models, and no others."""
        return False

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._ready

    async def open(self) -> None:
        """Loads the model, on a worker thread; see `load_server`.

        Raises:
            DragomanError: If it cannot be loaded, or the embedder cannot that is to be ready at the start.
        """
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._workers, self._load)
        if self._embedder is not None and self._embed_at_start:
            await self._embedder.open()
        self._ready = not self._closing

    async def close(self) -> None:
        """Cancels all generations, waits until the slots are free, and frees the model."""
        self._closing = True
        self._ready = False
        for generation in [*self._waiting, *self._running]:
            generation.cancel()
        await asyncio.to_thread(self._unload)
        if self._embedder is not None:
            await self._embedder.close()

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        """Turns texts into vectors; see `LlamaCppEmbedder.embed`.

        Raises:
            NotFound: If there is no such model.
            UnsupportedFeature: If the model is not made for it.
            DragomanError: If the request is refused or the embedder fails.
        """
        if self._embedder is not None and self._embeds(model):
            return await self._embedder.embed(request)
        if model == self._model_id:
            raise UnsupportedFeature(f"the model {model!r} makes no vectors on this server", field="model")
        raise self._unknown(model)

    def start(self, request: GenerationRequest, sink: GenerationSink) -> LlamaCppGeneration:
        """Starts a generation, or lets it wait for a slot.

        Raises:
            Unavailable: If the model is not loaded, too many requests wait, or the provider is closed.
            NotFound: If another model is asked for.
            InvalidRequest: If the request makes no sense.
            UnsupportedFeature: If the model cannot do what is asked for, or cannot chat at all.
        """
        if self._closing:
            raise Unavailable("the embedded model is being shut down", reason=Reason.SHUTTING_DOWN)
        if self._loop is None or not self._ready:
            raise Unavailable(
                "the embedded model is still being loaded", reason=Reason.MODEL_NOT_READY, retry_after=1.0
            )
        if request.model != self._model_id:
            if self._embeds(request.model):
                raise UnsupportedFeature(f"the model {request.model!r} makes vectors only", field="model")
            raise self._unknown(request.model)
        body = chat_body(request.spec)
        if len(self._running) >= self._parallel and len(self._waiting) >= self._max_waiting:
            raise Unavailable(f"{len(self._waiting)} requests wait for the embedded model already", retry_after=1.0)
        generation = LlamaCppGeneration(
            self._loop,
            body,
            ChunkReader(request.choice_index, request.spec.sampling.top_logprobs),
            sink,
            incremental=request.incremental,
            on_cancel=self._forget,
        )
        self._waiting[generation] = None
        self._fill_slots()
        return generation

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self._parallel:
            generation = next(iter(self._waiting))
            del self._waiting[generation]
            self._running[generation] = None
            self._workers.submit(self._run, generation)

    def _run(self, generation: LlamaCppGeneration) -> None:
        """Runs a generation, on a worker thread."""
        assert self._loop is not None
        try:
            generation.run(self._server.handle_chat_completions)
        finally:
            self._loop.call_soon_threadsafe(self._release, generation)

    def _release(self, generation: LlamaCppGeneration) -> None:
        del self._running[generation]
        self._fill_slots()

    def _forget(self, generation: LlamaCppGeneration) -> None:
        self._waiting.pop(generation, None)

    def _unknown(self, model: str) -> NotFound:
        return NotFound(f"{self._name} serves {self._model_id!r}, not {model!r}", reason=Reason.MODEL_NOT_FOUND)

    def _load(self) -> None:
        server = load_server(self._model, self._models_dir, self._threads, "local.model", self._shape)
        _warm_up(server)
        self._server = server

    def _shape(self, _xllamacpp: Any, params: Any) -> None:
        params.n_ctx = self._context_tokens * self._parallel  # slots share it evenly
        params.n_parallel = self._parallel
        params.n_batch = params.n_ubatch = _PROMPT_BATCH
        params.prefill_assistant = False  # a closing assistant message is answered, not continued

    def _unload(self) -> None:
        self._workers.shutdown(wait=True)
        self._server = None  # frees the model


def _warm_up(server: Any) -> None:
    """Generates one token: the first computation is slow, and a file that is no chat model shows here."""
    errors: list[dict[str, Any]] = []
    body = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "stream": True}
    try:
        server.handle_chat_completions(body, lambda chunk: errors.append(chunk["error"]) if "error" in chunk else None)
    except (ValueError, RuntimeError) as error:
        raise ProviderError(f"the model cannot chat: {error}", retryable=False) from error
    if errors:
        raise failure_of(errors[0])
