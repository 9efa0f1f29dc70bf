"""What a model backend is to the core: capabilities as data, and a push interface.

A provider starts generations; a generation pushes batches of events into a sink, then ends it once. The batch is the
very message that a stream carries, so that nothing is copied between a provider's parser and an answer's writer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from dragoman.v1.run_service_pb2 import StreamRunResponse as EventBatch
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import DragomanError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from google.protobuf.descriptor import FieldDescriptor

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman.v1.event_pb2 import FinishReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.run_pb2 import ChatSpec

__all__ = [
    "FOR_THE_SERVER",
    "Embedder",
    "EventBatch",
    "Generation",
    "GenerationFailed",
    "GenerationRequest",
    "GenerationSink",
    "PlainChat",
    "Provider",
    "iterate",
]

FOR_THE_SERVER = (
    "model",
    "upstream",
    "task_profile",
    "conversation_id",
    "history_mode",
    "message_notes",
    "persona",
    "context",
    "token_type",
)
"""Fields of `ChatSpec` that say nothing to a provider: the server has done what they ask for before it asks one."""


class PlainChat(NamedTuple):
    """What a conversation of texts says: a model, messages of a role and a text each, and sampling values.

    It is what whoever checked the request has read of it, so that nobody needs to read it again.

    Attributes:
        spec: The request that says just this. If another one is to be executed, this one says nothing of it.
        model: What the client asked for.
        messages: Who speaks, as `dragoman.v1.Role`, and the text, which is not empty.
        sampling: The fields that are set.
        message_bytes: How large the messages are together in their wire form, each without its tag and size; 0 if that
            is not known.
    """

    spec: ChatSpec
    model: str
    messages: Sequence[tuple[int, str]]
    sampling: Sequence[tuple[FieldDescriptor, Any]]
    message_bytes: int = 0


class GenerationRequest(NamedTuple):
    """One generation of one choice.

    Attributes:
        spec: The conversation and how to answer. Frozen by rule: a provider never changes it. Its choice count is
            to be ignored: the engine asks for each choice by itself.
        model: The provider's own name of the model (`spec.model` is what the client asked for).
        choice_index: The index that the events must carry.
        incremental: Whether someone reads along; if false, the whole answer may come in one batch.
        run_id: The run, for the backend's logs; may be empty.
        plain: What the conversation says, if that is plain and was read already. It counts only if its `spec` is this
            one's; a provider need not make use of it.
    """

    spec: ChatSpec
    model: str
    choice_index: int = 0
    incremental: bool = True
    run_id: str = ""
    plain: PlainChat | None = None


class GenerationSink(Protocol):
    """Receives one generation. All calls come on the event loop's thread, never from inside `Provider.start`.

    A sink never raises and never blocks.
    """

    def on_events(self, batch: EventBatch) -> None:
        """Takes the next events, at least one, without sequence and time; the sink owns the batch from here on.

        Allowed kinds: text_delta, reasoning_delta, refusal_delta, audio_delta, tool_call_started,
        tool_call_arguments_delta, tool_call_completed, choice_finished, usage_reported (`last_call` only). A tool call
        is started once, with its id and name, then gets its arguments, then is completed. Exactly one choice_finished
        precedes a good end; nothing but usage_reported follows it. A usage_reported is the last event of its batch.
        """

    def on_text(self, text: str) -> None:
        """Takes what would otherwise be a batch with one text_delta of choice 0, of this text alone; never empty.

        Most of a stream is that, and to pass it so costs a fraction. A provider need not make use of it.
        """

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        """Takes a whole answer and its end: what would otherwise be `on_events` and then `on_end` with None.

        That batch would have a text_delta, a choice_finished and, if the usage is not None, a usage_reported, all of
        choice 0 and with no more in them than is given here. Nothing came before, and the request is not incremental.
        Most plain answers are that, and to pass them so costs a fraction. A provider need not make use of it.

        Args:
            text: What the model said; never empty.
            finish_reason: Why it ended.
            usage: What it consumed, in the wire form of a `Usage`; None if the provider did not tell.
        """

    def on_end(self, failure: Failure | None) -> None:
        """Takes the end, exactly once and last: None if all went well, else why not."""


class Generation(Protocol):
    """A running generation. All methods may be called at any time, also after the end and repeatedly."""

    def cancel(self) -> None:
        """Stops as soon as possible (upstream connections within a second) and ends the sink with reason CANCELLED."""

    def pause(self) -> None:
        """Asks to hold back events: the reader is slow. A few more may come."""

    def resume(self) -> None:
        """Lifts `pause`."""

    @property
    def usage_so_far(self) -> Usage | None:
        """What the backend has told of its consumption, None if nothing; a count that it did not tell is 0.

        It is for generations that are broken off: one that ends well reports its usage as an event.
        """


class Provider(Protocol):
    """A model backend."""

    @property
    def name(self) -> str:
        """The configured name, unique in a server; models are reachable as `<name>/<upstream model>`."""

    @property
    def models(self) -> Sequence[Model]:
        """The models that the provider itself knows to serve; `id` is the provider's own name. May be empty.

        A provider that serves whatever it is asked for (a remote API) lists none, and `serves_any` is true.
        """

    @property
    def serves_any(self) -> bool:
        """Whether models that are not listed may be asked for."""

    @property
    def ready(self) -> bool:
        """Whether generations can start now (a model may still be loading)."""

    async def open(self) -> None:
        """Makes the provider ready, as far as it takes work (loading a model). Called once.

        Raises:
            DragomanError: If it can never become ready; the message says what to do.
        """

    async def close(self) -> None:
        """Cancels what still runs and frees everything. Called once, also after a failed `open`."""

    def start(self, request: GenerationRequest, sink: GenerationSink) -> Generation:
        """Starts a generation and returns at once; the sink gets everything else on later turns of the loop.

        Raises:
            UnsupportedFeature: If the provider has no word for something that is asked for; `field` is its path in
                the spec, so that a model whose policy allows it can leave the field out and ask again.
            DragomanError: If the request is refused for another reason; the sink is then never called.
        """


@runtime_checkable
class Embedder(Protocol):
    """A provider that turns texts into vectors, too."""

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        """Returns the vectors and the usage; the caller fills in the rest. Cancelling the task stops the work.

        Args:
            request: What to turn into vectors. Frozen by rule.
            model: The provider's own name of the model.

        Raises:
            DragomanError: If the request is refused or the provider fails; a ProviderError then tells the usage.
        """


class GenerationFailed(DragomanError):
    """A generation ended with a failure; see `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _QueueSink:
    """Collects a generation for `iterate`."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[EventBatch | Failure | None] = asyncio.Queue()

    def on_events(self, batch: EventBatch) -> None:
        self.queue.put_nowait(batch)

    def on_text(self, text: str) -> None:
        batch = EventBatch()
        batch.events.add().text_delta.text = text
        self.queue.put_nowait(batch)

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        batch = EventBatch()
        batch.events.add().text_delta.text = text
        batch.events.add().choice_finished.finish_reason = finish_reason
        if usage is not None:
            batch.events.add().usage_reported.last_call.CopyFrom(Usage.FromString(usage))
        self.queue.put_nowait(batch)
        self.queue.put_nowait(None)

    def on_end(self, failure: Failure | None) -> None:
        self.queue.put_nowait(failure)


async def iterate(provider: Provider, request: GenerationRequest) -> AsyncGenerator[EventBatch, None]:
    """Yields the batches of a generation, for tests and for code that would rather pull; leaving it cancels.

    Raises:
        GenerationFailed: If the generation ends with a failure.
        DragomanError: If the provider refuses the request.
    """
    sink = _QueueSink()
    generation = provider.start(request, sink)
    try:
        while isinstance(item := await sink.queue.get(), EventBatch):
            yield item
        if item is not None:
            raise GenerationFailed(item)
    finally:
        generation.cancel()
