"""The provider that calls a plugin: a server of `dragoman.plugin.v1.ModelBackend`, written in any language."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import grpc

from dragoman.plugin.v1 import model_backend_pb2, model_backend_pb2_grpc
from dragoman.reasons import Reason
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import DragomanError, InvalidRequest, ProviderError, Unavailable, UnsupportedFeature
from dragoman_server.providers.abilities import Abilities
from dragoman_server.providers.facts import facts_of_model
from dragoman_server.providers.failures import reported, sanitized
from dragoman_server.providers.plugin.checks import AnswerChecker
from dragoman_server.providers.remote import secrets_of
from dragoman_server.providers.signatures import keep_own, mark_of
from dragoman_server.telemetry.logs import get_logger
from dragoman_server.telemetry.propagation import outgoing_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.plugin.v1.model_backend_pb2 import DescribeResponse
    from dragoman.plugin.v1.model_backend_pb2 import GenerateResponse as Response
    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_server.providers.base import GenerationRequest, GenerationSink
    from dragoman_server.settings import ProviderSettings

logger = get_logger(__name__)

DESCRIBE_TIMEOUT = 5.0
"""Seconds that a plugin may take to tell what it serves."""
DESCRIBE_AGAIN = 60.0
"""Seconds after which a plugin is asked anew; one that did not answer is asked each second."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_REASONS: dict[grpc.StatusCode, tuple[Reason, bool]] = {
    grpc.StatusCode.UNAVAILABLE: (Reason.PROVIDER_UNREACHABLE, True),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.PROVIDER_TIMEOUT, True),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Reason.PROVIDER_RATE_LIMITED, True),
    grpc.StatusCode.UNAUTHENTICATED: (Reason.PROVIDER_AUTH, False),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.PROVIDER_AUTH, False),
    grpc.StatusCode.INVALID_ARGUMENT: (Reason.PROVIDER_REJECTED, False),
    grpc.StatusCode.NOT_FOUND: (Reason.MODEL_NOT_FOUND, False),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.PROVIDER_REJECTED, False),
}


class PluginProvider:
    """A plugin. It serves the models that it describes.

    Args:
        settings: Its name, address (`host:port`, `unix:PATH`, or `https://host:port` for an encrypted connection), key
            and limits. The key is sent as `authorization` metadata.

    Raises:
        InvalidRequest: If the address is missing, or the key is malformed.
    """

    serves_any = False

    def __init__(self, settings: ProviderSettings) -> None:
        if not settings.base_url:
            raise InvalidRequest("a plugin needs the address of its gRPC server in base_url", field="base_url")
        key = "" if settings.api_key is None else settings.api_key.get_secret_value()
        if not all(" " <= character <= "~" for character in key):
            raise InvalidRequest("the key of the plugin has forbidden characters", field="api_key")
        self.name = settings.name
        self.settings = settings
        self.mark = mark_of(settings.name)
        self._secrets = secrets_of(settings)
        self.models: Sequence[Model] = ()
        self.ready = False
        self._closed = False
        self.running: set[_Generation] = set()
        self.stub: model_backend_pb2_grpc.ModelBackendAsyncStub
        self._channel: grpc.aio.Channel | None = None
        self._describing: asyncio.Task[None] | None = None
        self._abilities: dict[str, Abilities] = {}

    async def open(self) -> None:
        """Asks the plugin what it serves, until it answers; it may start later than this server."""
        self._channel = _connect(self.settings.base_url)
        self.stub = model_backend_pb2_grpc.ModelBackendStub(self._channel)
        described = asyncio.Event()
        self._describing = asyncio.get_running_loop().create_task(self._describe_for_ever(described))
        await described.wait()

    async def close(self) -> None:
        """Cancels what still runs and closes the connection."""
        self._closed = True
        for generation in tuple(self.running):
            generation.cancel()
        if self._describing is not None:
            self._describing.cancel()
            await asyncio.gather(self._describing, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    def start(self, request: GenerationRequest, sink: GenerationSink) -> _Generation:
        """Calls the plugin.

        Raises:
            Unavailable: If the plugin has not answered yet (MODEL_NOT_READY), or the provider is closed.
            UnsupportedFeature: If the model, as it was described, cannot do what is asked for.
        """
        if self._closed:
            raise Unavailable("the provider is closed", reason=Reason.SHUTTING_DOWN)
        if not self.ready:
            raise Unavailable(
                f"the plugin {self.name} does not answer yet; try again",
                reason=Reason.MODEL_NOT_READY,
                retry_after=1,
            )
        if (abilities := self._abilities.get(request.model)) is not None:
            abilities.check(request.spec)
        if request.spec.response_format.HasField("grammar") and not request.spec.response_format.grammar.syntax:
            raise UnsupportedFeature("a grammar needs a known syntax", field="response_format.grammar.syntax")
        generation = _Generation(self, request, sink)
        self.running.add(generation)
        return generation

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of every call."""
        return _metadata(self.settings)

    def failure_of(self, error: DragomanError) -> Failure:
        """Returns a failure as clients see it: it names the plugin, and not its key."""
        return reported(error, self.name, self._secrets)

    async def _describe_for_ever(self, described: asyncio.Event) -> None:
        silent = False
        while True:
            try:
                answer = await self.stub.Describe(
                    model_backend_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT, metadata=self.metadata()
                )
            except grpc.aio.AioRpcError as error:
                if not silent:
                    logger.warning("a plugin does not answer", provider=self.name, status=error.code().name)
                silent = True
                await asyncio.sleep(1)
                continue
            if silent or not self.ready:
                logger.info("a plugin answers", provider=self.name, plugin=answer.name, version=answer.version)
            silent = False
            self.models = tuple(answer.models)
            self._abilities = {model.id: Abilities(facts_of_model(model)) for model in answer.models}
            self.ready = True
            described.set()
            await asyncio.sleep(DESCRIBE_AGAIN)


async def describe(settings: ProviderSettings, timeout: float) -> DescribeResponse:
    """Asks a plugin once what it serves.

    Raises:
        ProviderError: If it does not answer, or refuses.
    """
    async with _connect(settings.base_url) as channel:
        stub: model_backend_pb2_grpc.ModelBackendAsyncStub = model_backend_pb2_grpc.ModelBackendStub(channel)
        try:
            return await stub.Describe(
                model_backend_pb2.DescribeRequest(), timeout=timeout, metadata=_metadata(settings)
            )
        except grpc.aio.AioRpcError as error:
            raise _error_of_status(error) from error


def _metadata(settings: ProviderSettings) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of every call."""
    key = settings.api_key
    return () if key is None else (("authorization", f"Bearer {key.get_secret_value()}"),)


def _connect(address: str) -> grpc.aio.Channel:
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_http_proxy", 0),
    ]
    secure = address.removeprefix("https://")
    if secure != address:
        return grpc.aio.secure_channel(secure.rstrip("/"), grpc.ssl_channel_credentials(), options)
    return grpc.aio.insecure_channel(address.removeprefix("http://").rstrip("/"), options)


class _Generation:
    """One call of a plugin. A task reads its stream: gRPC streams can only be pulled."""

    def __init__(self, provider: PluginProvider, request: GenerationRequest, sink: GenerationSink) -> None:
        self._provider = provider
        self._sink = sink
        self._checker = AnswerChecker(request.choice_index, provider.mark)
        self._resumed: asyncio.Event | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(request))
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancels the call."""
        self._task.cancel()

    def pause(self) -> None:
        """Reads no more; gRPC's flow control then stops the plugin."""
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resume(self) -> None:
        """Reads on."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    @property
    def usage_so_far(self) -> None:
        """Nothing: what a plugin tells is an event."""

    async def _run(self, request: GenerationRequest) -> Failure | None:
        try:
            return await self._relay(request)
        except grpc.aio.AioRpcError as error:
            return self._provider.failure_of(_error_of_status(error))
        except ProviderError as error:
            return self._provider.failure_of(error)
        except Exception as error:  # the sink must hear of an end, whatever happens
            logger.exception("the call of a plugin broke", provider=self._provider.name, exc_info=error)
            message = f"an internal error ended the answer ({type(error).__name__})"
            return self._provider.failure_of(DragomanError(message))

    def _ended(self, task: asyncio.Task[Failure | None]) -> None:
        """Tells the end: also of a task that was cancelled before its first step."""
        self._provider.running.discard(self)
        if task.cancelled():
            cancelled = ProviderError("the generation was cancelled", reason=Reason.CANCELLED, retryable=False)
            self._sink.on_end(self._provider.failure_of(cancelled))
        else:
            self._sink.on_end(task.result())

    async def _relay(self, request: GenerationRequest) -> Failure | None:
        """Hands over the plugin's answer, and returns the failure that it ends with, if any."""
        provider, limits = self._provider, self._provider.settings
        call = provider.stub.Generate(
            model_backend_pb2.GenerateRequest(
                spec=_addressed(request, provider.mark),
                choice_index=request.choice_index,
                run_id=request.run_id,
                incremental=request.incremental,
            ),
            timeout=limits.total_timeout,
            metadata=(*provider.metadata(), *outgoing_trace.get()),
        )
        try:
            wait = limits.first_event_timeout
            while True:
                if self._resumed is not None:
                    await self._resumed.wait()
                try:
                    async with asyncio.timeout(wait):
                        response = cast("Response", await call.read())
                except TimeoutError:
                    raise ProviderError(f"no answer came for {wait:g} s", reason=Reason.PROVIDER_TIMEOUT) from None
                if response is grpc.aio.EOF:  # type: ignore[comparison-overlap]
                    self._checker.check_end()
                    return None
                for batch in self._checker.batches(response.events):
                    self._sink.on_events(batch)
                if response.HasField("failure"):
                    return _shown(response.failure, provider.name)
                wait = limits.idle_timeout
        finally:
            call.cancel()


def _addressed(request: GenerationRequest, mark: bytes) -> ChatSpec:
    """Returns the spec with the plugin's own name of the model, and no signatures but the plugin's own."""
    spec = ChatSpec()
    spec.CopyFrom(request.spec)
    spec.model = request.model
    keep_own(spec, mark)
    return spec


def _shown(failure: Failure, name: str) -> Failure:
    """Returns the plugin's failure as clients see it."""
    shown = Failure()
    shown.CopyFrom(failure)
    shown.reason = failure.reason if failure.reason in Reason.__members__ else Reason.PROVIDER_FAILED
    shown.message = sanitized(failure.message) or "the plugin failed without saying why"
    shown.metadata["provider"] = name
    return shown


def _error_of_status(error: grpc.aio.AioRpcError) -> ProviderError:
    reason, retryable = _REASONS.get(error.code(), (Reason.PROVIDER_FAILED, True))
    details = "" if reason is Reason.PROVIDER_UNREACHABLE else sanitized(error.details() or "")  # gRPC names addresses
    message = details or f"the plugin ended the call with {error.code().name}"
    return ProviderError(message, reason=reason, retryable=retryable, metadata={"status": error.code().name})
