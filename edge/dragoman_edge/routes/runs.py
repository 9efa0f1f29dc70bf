"""`/v1/runs`: runs as they are, in proto-JSON with the field names of the contract."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson
from google.protobuf.json_format import MessageToDict

from dragoman.streaming import open_stream
from dragoman.v1.run_service_pb2 import CancelRunRequest, GetRunRequest, ListRunsRequest, WatchRunRequest
from dragoman_edge.body import parse_json_object, read_body
from dragoman_edge.calls import WATCH_RUN, answer_of
from dragoman_edge.dialects.openai.errors import error_body
from dragoman_edge.dialects.text import EVENT_STREAM, PING
from dragoman_edge.errors import EdgeError
from dragoman_edge.routing import Parameter, Route
from dragoman_edge.sse import EventStream

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import WatchRunResponse
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream

_SEQUENCE = re.compile(r"[0-9]{1,18}")
_TERMINAL = frozenset({"run_completed", "run_failed", "run_cancelled"})


def run_routes(edge: Edge) -> list[Route]:
    """Returns the routes of runs."""
    runs = edge.core.runs

    async def list_runs(exchange: Exchange) -> Response:
        query = exchange.query()
        token = query.get("page_token", "")
        if not token.isprintable():
            raise EdgeError("Invalid 'page_token'.", param="page_token")
        request = ListRunsRequest(page_token=token)
        if (size := query.get("page_size")) is not None:
            request.page_size = min(_number(size, "page_size"), 1000)
        return exchange.json(_proto_json(await answer_of(runs.ListRuns(request, metadata=exchange.metadata()))))

    async def get_run(exchange: Exchange) -> Response:
        request = GetRunRequest(run_id=exchange.params["run_id"])
        answer = await answer_of(runs.GetRun(request, metadata=exchange.metadata()))
        return exchange.json(_proto_json(answer), run_id=answer.run.id)

    async def cancel_run(exchange: Exchange) -> Response:
        body = await read_body(exchange.request, edge.settings)
        if body and (members := parse_json_object(body, edge.settings.max_json_depth)):
            raise EdgeError(f"Unknown parameter: '{next(iter(members))}'.", code="unknown_parameter")
        request = CancelRunRequest(run_id=exchange.params["run_id"])
        answer = await answer_of(runs.CancelRun(request, metadata=exchange.metadata()))
        return exchange.json(_proto_json(answer), run_id=answer.run.id)

    async def watch_run(exchange: Exchange) -> Stream:
        request = WatchRunRequest(run_id=exchange.params["run_id"], after_sequence=_after(exchange))
        metadata = exchange.metadata()
        stream = EventStream(exchange, RunRenderer(), edge.settings)
        with edge.metrics.open_stream():
            return await stream.run(
                lambda sink: open_stream(edge.core.channel, WATCH_RUN, request, sink, metadata=metadata)
            )

    return [
        Route(
            "GET",
            "/v1/runs",
            list_runs,
            tag="Runs",
            summary="Lists the runs that are still kept, newest first.",
            parameters=_PAGING,
            answers={"application/json": "RunList"},
        ),
        Route(
            "GET",
            "/v1/runs/{run_id}",
            get_run,
            tag="Runs",
            summary="Returns the record of a run.",
            answers={"application/json": "RunAnswer"},
        ),
        Route(
            "GET",
            "/v1/runs/{run_id}/events",
            watch_run,
            tag="Runs",
            summary="Streams the events of a run.",
            description=_EVENTS,
            parameters=_AFTER,
            answers={"text/event-stream": "RunEvent"},
            streams=True,
        ),
        Route(
            "POST",
            "/v1/runs/{run_id}/cancel",
            cancel_run,
            tag="Runs",
            summary="Cancels a run.",
            description="A run that has ended is returned unchanged.",
            answers={"application/json": "RunAnswer"},
        ),
    ]


class RunRenderer:
    """Renders the events of a run as they are, one frame each: `id` is the sequence, `event` the kind.

    Attributes:
        media_type: The media type of the stream.
        keep_alive: What is sent when there is nothing to say.
        ended: Whether the run has ended.
        failure: Always None: a failed run is one of the events.
    """

    media_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self) -> None:
        self.ended = False
        self.failure: EdgeError | None = None

    def render(self, batch: WatchRunResponse) -> bytes:
        """Returns the frames of a batch."""
        return b"".join([self._frame(event) for event in batch.events])

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong."""
        return b"event: error\ndata: %b\n\n" % error_body(error)

    def _frame(self, event: RunEvent) -> bytes:
        kind = event.WhichOneof("kind") or "unknown"
        if kind in _TERMINAL:
            self.ended = True
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.sequence, kind.encode(), _proto_json(event))


def _proto_json(message: Message) -> bytes:
    return orjson.dumps(MessageToDict(message, preserving_proto_field_name=True))


def _number(text: str, param: str) -> int:
    if not _SEQUENCE.fullmatch(text):
        raise EdgeError(f"Invalid '{param}': it must be a whole number, 0 or more.", param=param)
    return int(text)


def _after(exchange: Exchange) -> int:
    """Returns the last sequence that the client has; the query wins over what a browser sends by itself."""
    query = exchange.query()
    if (after := query.get("after")) is not None:
        return _number(after, "after")
    return _number(exchange.request.headers.get("last-event-id", "").strip() or "0", "Last-Event-ID")


_COUNT = {"type": "integer", "minimum": 0}
_PAGING = (
    Parameter("page_size", "query", "Most runs to return; absent or 0 means 50, more than 1,000 means 1,000.", _COUNT),
    Parameter("page_token", "query", "`next_page_token` of the page before."),
)
_AFTER = (
    Parameter("after", "query", "The last sequence that the client has; wins over the header.", _COUNT),
    Parameter("Last-Event-ID", "header", "The same, as browsers send it when they connect again.", _COUNT),
)
_EVENTS = """\
Stored events first, then live ones, to the end of the run: `id` is the sequence, `event` the kind, `data` the event.
Events that are no longer kept are answered with 410; `x-dragoman-first-available-sequence` names the oldest that is.
A frame with `event: error` ends a stream that cannot go on."""
