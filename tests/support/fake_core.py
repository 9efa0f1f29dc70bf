"""A core that does what a test says: real gRPC services on a Unix socket, with the test in the place of the engine."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from dragoman.reasons import DOMAIN, Reason
from dragoman.v1 import catalog_service_pb2_grpc, embedding_service_pb2_grpc, run_service_pb2_grpc
from dragoman.v1.catalog_service_pb2 import GetModelResponse, ListModelsResponse, Model
from dragoman.v1.embedding_service_pb2 import Embedding, EmbedResponse
from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.message_pb2 import Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import Choice, Run
from dragoman.v1.run_service_pb2 import (
    CancelRunResponse,
    ExecuteRunResponse,
    GetRunResponse,
    ListRunsResponse,
    StreamRunResponse,
    WatchRunResponse,
)
from tests.support.empty_services import add_empty_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message as ProtoMessage

RUN_ID = "run_0192f0c1aaaa7bbb8cccddddeeee0001"
CREATED = 1_760_000_000


class CallFailed(Exception):
    """Makes a call end with a status and its details."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        retry_after: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        details: list[ProtoMessage] = [
            error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata or {})
        ]
        if field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if retry_after is not None:
            delay = Duration()
            delay.FromMilliseconds(int(retry_after * 1000))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = [AnyMessage() for _ in details]
        for target, detail in zip(packed, details, strict=True):
            target.Pack(detail)
        number: int = getattr(code_pb2, code.name)
        self.status = status_pb2.Status(code=number, message=message, details=packed)


@dataclass
class StreamScript:
    """What one stream does: the test pushes batches, then ends it.

    Attributes:
        request: What was asked for, once it was.
        started: Set when the call came.
        gone: Set when the caller has gone, or the stream has ended.
        sent: Batches that were taken by the wire.
        cancelled: Whether the caller went before the end.
    """

    request: Any = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0
    cancelled: bool = False
    _queue: asyncio.Queue[list[RunEvent] | CallFailed | None] = field(default_factory=asyncio.Queue)
    _sequence: int = 0

    def push(self, *events: RunEvent) -> None:
        """Sends events as one batch; sequences and times are filled in where they are missing."""
        for event in events:
            self._sequence = event.sequence = event.sequence or self._sequence + 1
            if not event.HasField("event_time"):
                event.event_time.seconds = CREATED
        self._queue.put_nowait(list(events))

    def end(self, failure: CallFailed | None = None) -> None:
        """Ends the call: well, or with a status."""
        self._queue.put_nowait(failure)

    async def play(self, request: Any, context: Any, make: type[Any]) -> AsyncIterator[Any]:
        self.request = request
        self.started.set()
        ended = False
        try:
            while True:
                item = await self._queue.get()
                if item is None:
                    ended = True
                    return
                if isinstance(item, CallFailed):
                    ended = True
                    await abort(context, item)
                yield make(run_id=RUN_ID, events=item)
                self.sent += 1
        finally:
            self.cancelled = not ended
            self.gone.set()


async def abort(context: Any, failure: CallFailed) -> None:
    details = (("grpc-status-details-bin", failure.status.SerializeToString()),)
    await context.abort(failure.code, failure.message, trailing_metadata=details)


class FakeCore(
    run_service_pb2_grpc.RunServiceServicer,
    catalog_service_pb2_grpc.CatalogServiceServicer,
    embedding_service_pb2_grpc.EmbeddingServiceServicer,
):
    """The services.

    Attributes:
        streams: Scripts of the streams to come, in order of the calls.
        answer: What the unary calls of runs return or raise; an event delays it until it is set.
        requests: What the unary calls asked for.
        metadata: The metadata of every call, by method.
        models: The catalogue.
        abandoned: Set when a unary call's caller has gone before its answer.
        health: The health service; serving at first.
        stop: Ends the server at once, while it is served.
    """

    def __init__(self) -> None:
        self.streams: asyncio.Queue[StreamScript] = asyncio.Queue()
        self.answer: Run | CallFailed = finished_run("Hello")
        self.hold: asyncio.Event | None = None
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.models: list[Model] = []
        self.abandoned = asyncio.Event()
        self.health = HealthServicer()
        self.stop: Callable[[], Awaitable[None]]

    def script(self) -> StreamScript:
        """Adds the script of the next stream."""
        script = StreamScript()
        self.streams.put_nowait(script)
        return script

    async def ExecuteRun(self, request: Any, context: Any) -> ExecuteRunResponse:
        return ExecuteRunResponse(run=await self._run(request, context))

    async def GetRun(self, request: Any, context: Any) -> GetRunResponse:
        return GetRunResponse(run=await self._run(request, context))

    async def CancelRun(self, request: Any, context: Any) -> CancelRunResponse:
        return CancelRunResponse(run=await self._run(request, context))

    async def ListRuns(self, request: Any, context: Any) -> ListRunsResponse:
        return ListRunsResponse(runs=[await self._run(request, context)], next_page_token="more")

    async def StartRun(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def StreamRun(self, request: Any, context: Any) -> AsyncIterator[StreamRunResponse]:
        self._note(context)
        async for batch in self.streams.get_nowait().play(request, context, StreamRunResponse):
            yield batch

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[WatchRunResponse]:
        self._note(context)
        async for batch in self.streams.get_nowait().play(request, context, WatchRunResponse):
            yield batch

    async def ListModels(self, request: Any, context: Any) -> ListModelsResponse:
        self._note(context)
        await self._fail(context)
        start = int(request.page_token or 0)
        end = start + 2  # small pages: a client must follow the tokens
        more = str(end) if end < len(self.models) else ""
        return ListModelsResponse(models=self.models[start:end], next_page_token=more)

    async def GetModel(self, request: Any, context: Any) -> GetModelResponse:
        self._note(context)
        for model in self.models:
            if model.id == request.model_id:
                return GetModelResponse(model=model)
        message = f"The model {request.model_id!r} does not exist."
        await abort(context, CallFailed(grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, message))
        raise AssertionError

    async def Embed(self, request: Any, context: Any) -> EmbedResponse:
        self._note(context)
        vectors = [Embedding(values=[1.0, 0.5]) for _ in request.inputs]
        return EmbedResponse(model=request.model or "fast", provider="fake", embeddings=vectors, attempts=1)

    async def _run(self, request: Any, context: Any) -> Run:
        self._note(context)
        self.requests.append(request)
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.abandoned.set()
                raise
        await self._fail(context)
        assert isinstance(self.answer, Run)
        return self.answer

    async def _fail(self, context: Any) -> None:
        if isinstance(self.answer, CallFailed):
            await abort(context, self.answer)

    def _note(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))


_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@asynccontextmanager
async def serve(core: FakeCore) -> AsyncIterator[grpc.aio.Channel]:
    """Serves a fake core and yields a channel to it."""
    server = grpc.aio.server(options=_ANY_SIZE)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(core, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(core, server)
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(core, server)
    add_empty_services(server)
    health_pb2_grpc.add_HealthServicer_to_server(core.health, server)  # type: ignore[no-untyped-call]
    await core.health.set("", health_pb2.HealthCheckResponse.SERVING)
    with tempfile.TemporaryDirectory(prefix="core") as folder:
        address = f"unix:{Path(folder) / 'core.sock'}"
        server.add_insecure_port(address)
        await server.start()
        core.stop = lambda: server.stop(None)
        try:
            async with grpc.aio.insecure_channel(address, options=_ANY_SIZE) as channel:
                yield channel
        finally:
            await server.stop(None)


def finished_run(text: str, **fields: Any) -> Run:
    """Returns a completed run that said one text."""
    message = Message(role=Role.ROLE_ASSISTANT, parts=[Part(text=TextPart(text=text))])
    choice = Choice(index=0, message=message, finish_reason=FinishReason.FINISH_REASON_STOP)
    run = Run(id=RUN_ID, state=Run.STATE_COMPLETED, model="fast", provider="fake", choices=[choice])
    run.create_time.seconds = CREATED
    run.usage.input_tokens, run.usage.output_tokens = 3, 5
    run.MergeFrom(Run(**fields))
    return run


def started(model: str = "fast") -> RunEvent:
    """Returns the first event of a run."""
    event = RunEvent()
    event.run_started.model = model
    return event


def text(content: str, choice: int = 0) -> RunEvent:
    """Returns a piece of an answer."""
    event = RunEvent()
    event.text_delta.choice_index = choice
    event.text_delta.text = content
    return event


def finished(choice: int = 0, reason: FinishReason = FinishReason.FINISH_REASON_STOP) -> RunEvent:
    """Returns the end of a choice."""
    event = RunEvent()
    event.choice_finished.choice_index = choice
    event.choice_finished.finish_reason = reason
    return event


def usage(read: int = 3, written: int = 5) -> RunEvent:
    """Returns what was consumed."""
    event = RunEvent()
    event.usage_reported.run_total.input_tokens = read
    event.usage_reported.run_total.output_tokens = written
    return event


def completed() -> RunEvent:
    """Returns the good end of a run."""
    event = RunEvent()
    event.run_completed.SetInParent()
    return event


def failed(reason: Reason, message: str = "It went wrong.", *, retryable: bool = False) -> RunEvent:
    """Returns the bad end of a run."""
    event = RunEvent()
    failure = event.run_failed.failure
    failure.reason, failure.message, failure.retryable = reason, message, retryable
    return event
