"""The provider."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, ProviderError, Unavailable
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.failures import reported
from dragoman_server.providers.litellm_library import library
from dragoman_server.providers.litellm_library.failures import failure_of
from dragoman_server.providers.litellm_library.request import arguments_of
from dragoman_server.providers.openai_chat.dialect import DIALECT
from dragoman_server.providers.remote import secrets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import GenerationRequest, GenerationSink
    from dragoman_server.settings import ProviderSettings


class LiteLLMProvider:
    """The library. It serves whatever model it is asked for, by the library's names: `bedrock/...`, `vertex_ai/...`.

    Args:
        settings: Its name, key and limits. Without a key and an address, the library reads its own variables.

    Raises:
        InvalidRequest: If the library is not installed.
    """

    serves_any = True
    models: Sequence[Model] = ()

    def __init__(self, settings: ProviderSettings) -> None:
        library.require(settings.name)
        self.name = settings.name
        self.settings = settings
        self.ready = False
        self.library: Any = None
        self.running: set[_Generation] = set()
        self._secrets = secrets_of(settings)
        self._closed = False

    async def open(self) -> None:
        """Imports the library, on another thread: it takes seconds."""
        self.library = await asyncio.to_thread(library.load)
        self.ready = not self._closed

    async def close(self) -> None:
        """Cancels what still runs and closes the library's connections."""
        self._closed = True
        self.ready = False
        for generation in tuple(self.running):
            generation.cancel()
        await asyncio.gather(*(generation.task for generation in self.running), return_exceptions=True)
        if self.library is not None:
            await library.leave()

    def start(self, request: GenerationRequest, sink: GenerationSink) -> _Generation:
        """Calls the library.

        Raises:
            UnsupportedFeature: If the library or the vendor has no word for something that is asked for.
            InvalidRequest: If JSON text within the request is not JSON.
            Unavailable: If the library is not loaded yet (MODEL_NOT_READY), or the provider is closed.
        """
        if self._closed:
            raise Unavailable("the provider is closed", reason=Reason.SHUTTING_DOWN)
        if not self.ready:
            raise Unavailable("the library is not loaded yet; try again", reason=Reason.MODEL_NOT_READY, retry_after=1)
        generation = _Generation(self, request, sink, arguments_of(request, self.library))
        self.running.add(generation)
        return generation

    def call_options(self) -> dict[str, Any]:
        """Returns the arguments of every call that say whom to ask and how."""
        settings = self.settings
        options: dict[str, Any] = {
            "max_retries": 0,  # routing tries again, and elsewhere
            "num_retries": 0,
            "timeout": settings.total_timeout,
            # With tools, it otherwise looks for those that it would call by itself, which takes a package of its proxy.
            "_skip_mcp_handler": True,
        }
        if settings.api_key is not None:
            options["api_key"] = settings.api_key.get_secret_value()
        if settings.base_url:
            options["api_base"] = settings.base_url
        if settings.headers:
            options["extra_headers"] = {name: secret.get_secret_value() for name, secret in settings.headers.items()}
        return options

    def report(self, error: DragomanError) -> Failure:
        """Returns the failure as clients see it: it names the provider, and none of its secrets."""
        return reported(error, self.name, self._secrets)


class _Generation:
    """One call of the library, in a task of its own: its streams can only be pulled."""

    def __init__(
        self, provider: LiteLLMProvider, request: GenerationRequest, sink: GenerationSink, arguments: dict[str, Any]
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._resumed: asyncio.Event | None = None
        self._answering = False
        self._reader = DIALECT.reader(request, b"")
        self.task = asyncio.get_running_loop().create_task(self._run(arguments, stream=request.incremental))
        self.task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancels the call; the library closes its connection."""
        self.task.cancel()

    def pause(self) -> None:
        """Reads no more; the connection then fills up."""
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resume(self) -> None:
        """Reads on."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    @property
    def usage_so_far(self) -> Usage | None:
        """What the vendor has told of its consumption; None if nothing."""
        return self._reader.usage

    async def _run(self, arguments: dict[str, Any], *, stream: bool) -> Failure | None:
        """Makes the call, and returns the failure that it ends with, if any."""
        try:
            async with asyncio.timeout(self._provider.settings.total_timeout):
                await self._answer(arguments, stream=stream)
        except ProviderError as error:
            return self._provider.report(error)
        except TimeoutError:
            return self._provider.report(_silent("the answer took too long"))
        except Exception as error:  # the library raises whatever the code below it does
            return self._provider.report(failure_of(error, answering=self._answering))
        return None

    async def _answer(self, arguments: dict[str, Any], *, stream: bool) -> None:
        provider = self._provider
        limits = provider.settings
        call = provider.library.acompletion(**arguments, **provider.call_options())
        answer = await _within(limits.first_event_timeout, call)
        self._answering = True
        if not stream:
            batch = EventBatch()
            written = answer.model_dump(exclude_none=True)
            if not written.get("usage", {}).get("total_tokens"):
                written.pop("usage", None)  # the library has zeros where nothing was reported
            self._reader.read_whole(orjson.dumps(written), batch)
            self._sink.on_events(batch)
            return
        async with aclosing(answer):
            wait = limits.first_event_timeout
            while (chunk := await _within(wait, anext(answer, None))) is not None:
                written = chunk.model_dump(exclude_none=True)
                if "usage" in written and not _was_metered(answer):
                    del written["usage"]
                # The chunks are those of the dialect: written as it sends them, its reader makes events of them.
                self._read(b"data: %b\n\n" % orjson.dumps(written))
                if self.task.cancelling():
                    await asyncio.sleep(0)  # what is there already is handed out without a wait in which to stop
                wait = limits.idle_timeout
                if self._resumed is not None:
                    await self._resumed.wait()
            if not _was_finished(answer):
                raise ProviderError("the answer ended without a finish reason", reason=Reason.PROVIDER_PROTOCOL)
        self._read(b"data: [DONE]\n\n", last=True)

    def _read(self, data: bytes, *, last: bool = False) -> None:
        batch = EventBatch()
        try:
            self._reader.read_stream(data, batch)
            if last:
                self._reader.end_stream(batch)
        finally:
            if batch.events:
                self._sink.on_events(batch)

    def _ended(self, task: asyncio.Task[Failure | None]) -> None:
        """Tells the end: also of a task that was cancelled before its first step."""
        self._provider.running.discard(self)
        if task.cancelled():
            cancelled = ProviderError("the generation was cancelled", reason=Reason.CANCELLED, retryable=False)
            self._sink.on_end(self._provider.report(cancelled))
        else:
            self._sink.on_end(task.result())


def _was_metered(stream: Any) -> bool:
    """Whether the vendor reported usage: where it does not, the library makes it up."""
    return any(getattr(chunk, "usage", None) is not None for chunk in stream.chunks)


def _was_finished(stream: Any) -> bool:
    """Whether the vendor said why the answer ended: where it does not, the library says `stop`."""
    return bool(stream.received_finish_reason or stream.intermittent_finish_reason)


async def _within(seconds: float, call: Any) -> Any:
    """Awaits a call of the library.

    Raises:
        ProviderError: If it takes longer (PROVIDER_TIMEOUT).
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await call
    except TimeoutError:
        if timeout.expired():
            raise _silent(f"no answer came for {seconds:g} s") from None
        raise


def _silent(message: str) -> ProviderError:
    return ProviderError(message, reason=Reason.PROVIDER_TIMEOUT, retryable=True)
