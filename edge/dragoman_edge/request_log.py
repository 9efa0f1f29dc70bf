"""The log of requests: one line for each, when it has ended. Off by default."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman.v1.embedding_service_pb2 import EmbedResponse
    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_pb2 import Run
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_edge.errors import EdgeError
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.outcome import End, Outcome
    from dragoman_edge.routing import Route
    from dragoman_edge.sse import Renderer

logger = logging.getLogger(__name__)


def log_requests(exchange: Exchange, route: Route) -> End:
    """Begins the line of a request; its route is the one of the table, for paths may hold secrets."""
    start = time.perf_counter()
    served = exchange.served = Served()

    def end(outcome: Outcome) -> None:
        facts = {
            "request_id": exchange.request_id,
            "run_id": served.run_id or outcome.run_id,
            "method": route.method,
            "route": route.path,
            "status": outcome.status,
            "seconds": round(time.perf_counter() - start, 6),
            "model": served.model,
            "provider": served.provider,
            "attempts": served.attempts,
            "reason": outcome.error or served.reason,
        }
        if served.tokens is not None:
            facts["input_tokens"], facts["output_tokens"] = served.tokens
        logger.info("request", extra={name: value for name, value in facts.items() if value not in ("", 0)})

    return end


class Served:
    """What became of a request: who served it, and what it consumed.

    Attributes:
        run_id: The run.
        model: The model, after aliases were resolved.
        provider: Who served it.
        attempts: How many attempts it took.
        reason: Why the run failed, if it did.
        tokens: Tokens read and written, once they are known.
    """

    __slots__ = ("attempts", "model", "provider", "reason", "run_id", "tokens")

    def __init__(self) -> None:
        self.run_id = self.model = self.provider = self.reason = ""
        self.attempts = 0
        self.tokens: tuple[int, int] | None = None

    def take_run(self, run: Run) -> None:
        """Takes a run that has ended."""
        self.run_id, self.model, self.provider, self.attempts = run.id, run.model, run.provider, run.attempts
        self.reason = run.failure.reason
        if run.HasField("usage"):
            self._take_usage(run.usage)

    def take_vectors(self, response: EmbedResponse) -> None:
        """Takes an answer of vectors."""
        self.model, self.provider, self.attempts = response.model, response.provider, response.attempts
        self._take_usage(response.usage)

    def watching(self, renderer: Renderer[StreamRunResponse]) -> Renderer[StreamRunResponse]:
        """Returns a renderer that tells of what it renders."""
        return _Watching(renderer, self)

    def take_event(self, event: RunEvent) -> None:
        """Takes an event of a run."""
        match event.WhichOneof("kind"):
            case "run_started":
                self.model = event.run_started.model
            case "step_started":
                self.provider = event.step_started.provider
                self.attempts = max(self.attempts, event.step_started.attempt)
            case "usage_reported":
                self._take_usage(event.usage_reported.run_total)
            case "run_failed":
                self.reason = event.run_failed.failure.reason

    def _take_usage(self, usage: Usage) -> None:
        self.tokens = (usage.input_tokens, usage.output_tokens)


class _Watching:
    """A renderer, and what it tells."""

    def __init__(self, renderer: Renderer[StreamRunResponse], served: Served) -> None:
        self._renderer = renderer
        self._served = served
        self.media_type = renderer.media_type
        self.keep_alive = renderer.keep_alive

    @property
    def ended(self) -> bool:
        return self._renderer.ended

    @property
    def failure(self) -> EdgeError | None:
        return self._renderer.failure

    def render(self, batch: StreamRunResponse) -> bytes:
        self._served.run_id = batch.run_id
        for event in batch.events:
            self._served.take_event(event)
        return self._renderer.render(batch)

    def fail(self, error: EdgeError) -> bytes:
        self._served.reason = error.reason
        return self._renderer.fail(error)
