"""The spans of the core, by OpenTelemetry's conventions for generative AI. Imported only when traces are on.

A run is one span for the whole operation, all attempts included, and holds what was asked, what came and what it
consumed. Each attempt is a client span below it, which the provider is told of.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CancelReason, FinishReason
from dragoman.v1.run_pb2 import Run
from dragoman_server.errors import DragomanError
from dragoman_server.telemetry.propagation import outgoing_trace
from dragoman_server.telemetry.trace_content import input_messages, output_messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from dragoman.v1.embedding_service_pb2 import EmbedResponse
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.telemetry.propagation import Carrier

    Attributes = dict[str, AttributeValue]

_PROPAGATOR = TraceContextTextMapPropagator()
_SYSTEMS = {"azure": "azure.ai.openai", "google": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}
"""Vendors that the conventions have another name for."""
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "max_output_tokens": "max_tokens",
}
"""Fields of Sampling that the conventions have a word for."""


class Tracer:
    """Makes the core's spans.

    Args:
        provider: Where they go.
        vendors: Whose servers the providers are, where that is known.
        content: Whether spans hold what was said.
    """

    def __init__(self, provider: TracerProvider, vendors: Mapping[str, str], *, content: bool = False) -> None:
        self._tracer = provider.get_tracer("dragoman")
        self._systems = {name: _SYSTEMS.get(vendor, vendor) for name, vendor in vendors.items()}
        self._content = content
        self._runs: dict[str, _RunTrace] = {}

    def enter(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Makes the trace that a call's metadata speaks of the current one of this context."""
        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        otel_context.attach(_PROPAGATOR.extract(carrier))

    def run_started(self, run_id: str, spec: ChatSpec, *, streams: bool) -> None:
        """Begins the span of a run, below the current one."""
        name = f"chat {spec.model}" if spec.model else "chat"
        attributes: Attributes = {"gen_ai.operation.name": "chat"}
        if spec.model:
            attributes["gen_ai.request.model"] = spec.model
        span = self._tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes)
        if span.is_recording():
            span.set_attributes(_asked(run_id, spec, streams=streams))
            if self._content:
                span.set_attribute("gen_ai.input.messages", input_messages(spec))
        self._runs[run_id] = _RunTrace(span)

    def run_refused(self, run_id: str, error: BaseException) -> None:
        """Ends the span of a run that did not come about."""
        trace = self._runs.pop(run_id, None)
        if trace is not None:
            _fail(trace.span, _error_type(error))
            trace.span.end()

    def run_ended(self, record: Run) -> None:
        """Ends the span of a run."""
        trace = self._runs.pop(record.id, None)
        if trace is None:
            return
        span = trace.span
        if span.is_recording():
            span.set_attributes(self._answered(record))
            if trace.first_chunk is not None:
                span.set_attribute("gen_ai.response.time_to_first_chunk", trace.first_chunk)
            if self._content:
                span.set_attribute("gen_ai.output.messages", output_messages(record))
            if record.state == Run.STATE_FAILED:
                _fail(span, record.failure.reason)
            elif record.state == Run.STATE_CANCELLED:
                span.set_attribute("dragoman.cancel_reason", _word(CancelReason.Name(record.cancel_reason)))
        span.end()

    def attempt(self, run_id: str, provider: str, model: str, number: int, choice: int = 0) -> AttemptTrace:
        """Begins the span of an attempt to have a choice of a run answered.

        Args:
            run_id: The run.
            provider: Who is asked.
            model: The provider's name of the model.
            number: Number of the attempt, from 1.
            choice: Index of the choice.
        """
        trace = self._runs.get(run_id)
        if trace is None:
            return AttemptTrace(self._client_span("chat", provider, model, number, None), None)
        failed = trace.failed.pop(choice, "")
        if failed:
            trace.span.add_event("dragoman.retry", {"dragoman.attempt": number, "error.type": failed})
        span = self._client_span("chat", provider, model, number, trace.context)
        return AttemptTrace(span, trace, choice)

    @contextmanager
    def embedding(self, model: str) -> Iterator[EmbeddingTrace]:
        """Makes the block the span of a request for vectors."""
        name = f"embeddings {model}" if model else "embeddings"
        attributes: Attributes = {"gen_ai.operation.name": "embeddings"}
        if model:
            attributes["gen_ai.request.model"] = model
        span = self._tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes)
        try:
            yield EmbeddingTrace(self, span)
        except BaseException as error:
            _fail(span, _error_type(error))
            raise
        finally:
            span.end()

    @contextmanager
    def embedding_attempt(self, parent: Context, provider: str, model: str, number: int) -> Iterator[None]:
        """Makes the block the span of an attempt to have vectors made; the provider is told of it."""
        span = self._client_span("embeddings", provider, model, number, parent)
        token = outgoing_trace.set(_carrier(span))
        try:
            yield
        except BaseException as error:
            _fail(span, _error_type(error))
            raise
        finally:
            outgoing_trace.reset(token)
            span.end()

    def system(self, provider: str) -> str:
        """Returns the conventions' name of a provider."""
        return self._systems.get(provider, provider)

    def _client_span(self, operation: str, provider: str, model: str, number: int, parent: Context | None) -> Span:
        attributes: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self.system(provider),
            "gen_ai.request.model": model,
            "dragoman.provider": provider,
            "dragoman.attempt": number,
        }
        return self._tracer.start_span(f"{operation} {model}", parent, SpanKind.CLIENT, attributes)

    def _answered(self, record: Run) -> Attributes:
        """Returns what a run's span says of its outcome."""
        attributes: Attributes = {
            "dragoman.state": _word(Run.State.Name(record.state)),
            "dragoman.attempts": record.attempts,
        }
        if record.provider:
            attributes["gen_ai.provider.name"] = self.system(record.provider)
            attributes["gen_ai.response.model"] = record.upstream_model
            attributes["dragoman.provider"] = record.provider
        reasons = [_word(FinishReason.Name(c.finish_reason)) for c in record.choices if c.finish_reason]
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = reasons
        if record.HasField("usage"):
            attributes |= _usage(record.usage)
        if record.dropped_params:
            attributes["dragoman.dropped_params"] = list(record.dropped_params)
        if record.emulated_features:
            attributes["dragoman.emulated_features"] = list(record.emulated_features)
        return attributes


class _RunTrace:
    """A run that is being traced.

    Attributes:
        span: Its span.
        context: The context of what belongs to it.
        began: When it began, in nanoseconds since the epoch.
        first_chunk: Seconds until the first piece of an answer came, if one did.
        failed: Why the latest attempt failed, by choice; only if it did.
    """

    __slots__ = ("began", "context", "failed", "first_chunk", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = set_span_in_context(span)
        self.began = time_ns()
        self.first_chunk: float | None = None
        self.failed: dict[int, str] = {}


class AttemptTrace:
    """An attempt that is being traced; one that never `ended` leaves no trace.

    Attributes:
        carrier: What the provider is told.
    """

    __slots__ = ("_choice", "_run", "_span", "carrier")

    def __init__(self, span: Span, run: _RunTrace | None, choice: int = 0) -> None:
        self._span = span
        self._run = run
        self._choice = choice
        self.carrier = _carrier(span)

    def answered(self) -> None:
        """Takes note of the first piece of an answer."""
        run = self._run
        if run is not None and run.first_chunk is None:
            run.first_chunk = (time_ns() - run.began) / 1e9

    def ended(self, failure: Failure | None) -> None:
        """Ends the span."""
        if failure is not None:
            if self._run is not None:
                self._run.failed[self._choice] = failure.reason
            if "status" in failure.metadata and failure.metadata["status"].isdigit():
                self._span.set_attribute("http.response.status_code", int(failure.metadata["status"]))
            _fail(self._span, failure.reason)
        self._span.end()


class EmbeddingTrace:
    """A request for vectors that is being traced."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    @contextmanager
    def attempt(self, provider: str, model: str, number: int) -> Iterator[None]:
        """Makes the block the span of an attempt; the provider is told of it."""
        if number > 1:
            self._span.add_event("dragoman.retry", {"dragoman.attempt": number})
        with self._tracer.embedding_attempt(self._context, provider, model, number):
            yield

    def answered(self, response: EmbedResponse) -> None:
        """Takes note of the answer."""
        attributes: Attributes = {
            "gen_ai.provider.name": self._tracer.system(response.provider),
            "gen_ai.response.model": response.upstream_model,
            "gen_ai.usage.input_tokens": response.usage.input_tokens,
            "dragoman.provider": response.provider,
            "dragoman.attempts": response.attempts,
        }
        if response.embeddings:
            attributes["gen_ai.embeddings.dimension.count"] = len(response.embeddings[0].values)
        self._span.set_attributes(attributes)


def _asked(run_id: str, spec: ChatSpec, *, streams: bool) -> Attributes:
    """Returns what a run's span says of the request."""
    sampling = spec.sampling
    attributes: Attributes = {"gen_ai.response.id": run_id, "gen_ai.request.stream": streams}
    for field, value in sampling.ListFields():
        if (name := _SAMPLING.get(field.name)) is not None:
            attributes[f"gen_ai.request.{name}"] = value
    if sampling.choice_count > 1:
        attributes["gen_ai.request.choice.count"] = sampling.choice_count
    kind = spec.response_format.WhichOneof("kind")
    if kind is not None:
        attributes["gen_ai.output.type"] = "json" if kind.startswith("json") else "text"
    return attributes


def _usage(usage: Usage) -> Attributes:
    attributes: Attributes = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    if cached := usage.input_details.cached_tokens:
        attributes["gen_ai.usage.cache_read.input_tokens"] = cached
    if written := usage.input_details.cache_write_tokens:
        attributes["gen_ai.usage.cache_creation.input_tokens"] = written
    if thought := usage.output_details.reasoning_tokens:
        attributes["gen_ai.usage.reasoning.output_tokens"] = thought
    return attributes


def _fail(span: Span, error_type: str) -> None:
    """Marks a span as failed; messages stay out, they may quote what was said. A cancellation is no error."""
    span.set_attribute("error.type", error_type)
    if error_type != Reason.CANCELLED:
        span.set_status(Status(StatusCode.ERROR))


def _error_type(error: BaseException) -> str:
    if isinstance(error, DragomanError):
        return error.reason
    return Reason.CANCELLED if not isinstance(error, Exception) else type(error).__name__


def _word(name: str) -> str:
    """Returns the word of an enum's value: `FINISH_REASON_TOOL_CALLS` is `tool_calls`."""
    for prefix in ("FINISH_REASON_", "CANCEL_REASON_", "STATE_"):
        name = name.removeprefix(prefix)
    return name.lower()


def _carrier(span: Span) -> Carrier:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span))
    return tuple(carrier.items())
