"""`POST /v1/chat/completions`: a run, in the dialect of OpenAI."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman.streaming import open_stream
from dragoman.v1.run_pb2 import DisconnectPolicy, Run, RunSpec
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, StreamRunRequest
from dragoman_edge.body import read_json_object
from dragoman_edge.calls import STREAM_RUN, answer_of, error_of_cancellation, error_of_failure
from dragoman_edge.dialects.openai.answer import options_of, render_completion
from dragoman_edge.dialects.openai.render import ChatRenderer
from dragoman_edge.dialects.openai.request import check_request
from dragoman_edge.dialects.openai.to_proto import fill_chat_spec
from dragoman_edge.errors import EdgeError
from dragoman_edge.routing import Parameter, Route
from dragoman_edge.sse import EventStream

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange

_DISCONNECT = "X-Dragoman-Disconnect"
_DETACH_FOR = re.compile(r"detach-for=([0-9]{1,5})")
_POLICIES = {
    "cancel": DisconnectPolicy.DISCONNECT_POLICY_CANCEL,
    "detach": DisconnectPolicy.DISCONNECT_POLICY_DETACH,
}


def chat_routes(edge: Edge) -> list[Route]:
    """Returns the routes of chat completions."""

    async def create(exchange: Exchange) -> StreamResponse:
        body = await read_json_object(exchange.request, edge.settings)
        checked = check_request(body)
        options = options_of(checked)
        if not checked.get("stream"):
            plain = ExecuteRunRequest()
            fill_chat_spec(plain.spec.chat, checked)
            _apply_headers(exchange, plain)
            run = (await answer_of(edge.core.runs.ExecuteRun(plain, metadata=exchange.metadata()))).run
            raise_unless_completed(run)
            return exchange.json(render_completion(run, options), run_id=run.id)
        request = StreamRunRequest()
        fill_chat_spec(request.spec.chat, checked)
        _apply_headers(exchange, request)
        metadata = exchange.metadata()
        stream = EventStream(exchange, ChatRenderer(options), edge.settings)
        with edge.metrics.open_stream():
            return await stream.run(
                lambda sink: open_stream(edge.core.channel, STREAM_RUN, request, sink, metadata=metadata)
            )

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            create,
            tag="Chat",
            summary="Creates a chat completion.",
            description=_DESCRIPTION,
            parameters=_PARAMETERS,
            request="ChatCompletionRequest",
            answers={"application/json": "ChatCompletion", "text/event-stream": "ChatCompletionChunk"},
            streams=True,
        )
    ]


def raise_unless_completed(run: Run) -> None:
    """Does nothing for a run that ended well.

    Raises:
        EdgeError: If the run failed or was cancelled.
    """
    if run.state == Run.STATE_COMPLETED:
        return
    if run.state == Run.STATE_FAILED:
        raise error_of_failure(run.failure, run.id)
    raise error_of_cancellation(run.cancel_reason, run.id)


def _apply_headers(exchange: Exchange, request: StreamRunRequest | ExecuteRunRequest) -> None:
    """Applies the headers that shape the run.

    Raises:
        EdgeError: If one makes no sense.
    """
    headers = exchange.request.headers
    if (key := headers.get("Idempotency-Key")) is not None:
        if not 0 < len(key) <= 255 or not key.isprintable():
            raise EdgeError("The Idempotency-Key must have 1 to 255 printable characters.", param="Idempotency-Key")
        request.request_id = key
    if (policy := headers.get(_DISCONNECT)) is not None:
        _apply_policy(request.spec, policy.strip().lower())


def _apply_policy(spec: RunSpec, policy: str) -> None:
    if policy in _POLICIES:
        spec.disconnect_policy = _POLICIES[policy]
    elif (match := _DETACH_FOR.fullmatch(policy)) is not None:
        spec.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR
        spec.detach_ttl.seconds = int(match[1])
    else:
        message = f"Invalid '{_DISCONNECT}': it must be cancel, detach or detach-for=SECONDS."
        raise EdgeError(message, param=_DISCONNECT)


_PARAMETERS = (
    Parameter(
        "Idempotency-Key",
        "header",
        "Names the request: sent again, it gets the answer of the first run instead of a second run. Another request "
        "under the same key is refused with 409.",
        {"type": "string", "minLength": 1, "maxLength": 255},
    ),
    Parameter(
        _DISCONNECT,
        "header",
        "What happens to the run when its last caller has gone: `cancel` it (the default), `detach` it, or "
        "`detach-for=SECONDS`. With an Idempotency-Key the default is `detach-for=60`.",
    ),
    Parameter("X-Request-Id", "header", "The client's own name of the request; the answer repeats it."),
)

_DESCRIPTION = """\
With `stream: true` the answer is a stream of chunks that ends with `[DONE]`. A failure before the first chunk is an
answer with its own status; a later one is a last frame with the member `error`. Comments (`: ping`) keep silent streams
alive."""
