"""What all dialects have in common: a run, answered whole or as a stream, and the headers that shape it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dragoman.streaming import open_stream
from dragoman.v1.run_pb2 import DisconnectPolicy, Run, RunSpec
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, StreamRunRequest
from dragoman_edge.calls import EXECUTE_RUN, STREAM_RUN, UnaryAnswer
from dragoman_edge.errors import EdgeError
from dragoman_edge.routing import Parameter
from dragoman_edge.served import lines_of, tell_circumstances, tell_run, tell_start
from dragoman_edge.sse import EventStream

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from dragoman.streaming import Metadata
    from dragoman.v1.run_service_pb2 import ExecuteRunResponse, StreamRunResponse
    from dragoman_edge.dialects.dialect import Generation
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.sse import Renderer

_DISCONNECT = "X-Dragoman-Disconnect"
CONVERSATION = "X-Dragoman-Conversation"
"""The header that names a stored conversation."""
PERSONA = "X-Dragoman-Persona"
"""The header that names a persona."""
_TOKEN_TYPE = "X-Token-Type"
_COMPLETED = Run.STATE_COMPLETED
_SHAPING = frozenset(name.lower() for name in ("Idempotency-Key", _DISCONNECT, CONVERSATION, PERSONA, _TOKEN_TYPE))
"""The headers that shape a run."""
_DETACH_FOR = re.compile(r"detach-for=([0-9]{1,5})")
_POLICIES = {
    "cancel": DisconnectPolicy.DISCONNECT_POLICY_CANCEL,
    "detach": DisconnectPolicy.DISCONNECT_POLICY_DETACH,
}


def generate(
    edge: Edge,
    exchange: Exchange,
    generation: Generation,
    metadata: Metadata,
) -> Awaitable[Response | Stream]:
    """Returns the answer to a request for a generation: a plain one is a `UnaryAnswer`.

    Args:
        edge: The parts of the edge.
        exchange: The request.
        generation: What it asks for.
        metadata: The metadata of the call.

    Raises:
        EdgeError: If the request is refused; also when the answer is awaited, or if the run fails before there is
            anything to show.
    """
    if generation.renderer is not None:
        return _stream(edge, exchange, generation, generation.renderer(), metadata)
    request = ExecuteRunRequest()
    generation.fill(request.spec)
    _apply_headers(exchange, request)

    def answer(response: ExecuteRunResponse) -> Response:
        run = response.run
        if exchange.served is not None:
            exchange.served.take_run(run)
        lines = ""
        if run.state == _COMPLETED:
            lines = lines_of(run)
            tell_circumstances(exchange.headers, run, generation.name_of)
        else:  # the headers are those of the error
            tell_run(exchange.headers, run, generation.name_of)
        if generation.tell is not None:
            generation.tell(exchange.headers, run)
        return exchange.json(generation.render(run), run_id=run.id, lines=lines)

    return UnaryAnswer(edge.core, EXECUTE_RUN, request, metadata, answer)


async def _stream(
    edge: Edge,
    exchange: Exchange,
    generation: Generation,
    renderer: Renderer[StreamRunResponse],
    metadata: Metadata,
) -> Response | Stream:
    request = StreamRunRequest()
    generation.fill(request.spec)
    _apply_headers(exchange, request)
    if exchange.served is not None:
        renderer = exchange.served.watching(renderer)

    def before_head(batch: StreamRunResponse) -> None:
        tell_start(exchange.headers, batch, generation.name_of)
        if generation.tell is not None:
            generation.tell(exchange.headers, batch)

    stream = EventStream(exchange, renderer, edge.settings, before_head)
    with edge.metrics.open_stream():
        return await stream.run(
            lambda sink: open_stream(edge.core.channel, STREAM_RUN, request, sink, metadata=metadata)
        )


def outlives_client(exchange: Exchange) -> bool:
    """Returns whether the run of a request may go on, or be asked for again, when its client has left."""
    headers = exchange.request.headers
    return "idempotency-key" in headers or headers.get(_DISCONNECT.lower(), "cancel").strip().lower() != "cancel"


def _apply_headers(exchange: Exchange, request: StreamRunRequest | ExecuteRunRequest) -> None:
    """Applies the headers that shape the run.

    Raises:
        EdgeError: If one makes no sense.
    """
    facts = exchange.facts
    if facts.shapes_run is None:
        facts.shapes_run = not _SHAPING.isdisjoint(exchange.request.headers)
    if not facts.shapes_run:
        return
    if (key := exchange.header("Idempotency-Key")) is not None:
        if not 0 < len(key) <= 255 or not key.isprintable():
            raise EdgeError("The Idempotency-Key must have 1 to 255 printable characters.", param="Idempotency-Key")
        request.request_id = key
    if (policy := exchange.header(_DISCONNECT)) is not None:
        _apply_policy(request.spec, policy.strip().lower())
    if (conversation := exchange.header(CONVERSATION)) is not None:
        request.spec.chat.conversation_id = conversation
    if (persona := exchange.header(PERSONA)) is not None:
        request.spec.chat.persona = persona
    if (token_type := exchange.header(_TOKEN_TYPE)) is not None and not request.spec.chat.token_type:
        request.spec.chat.token_type = token_type


def _apply_policy(spec: RunSpec, policy: str) -> None:
    if policy in _POLICIES:
        spec.disconnect_policy = _POLICIES[policy]
    elif (match := _DETACH_FOR.fullmatch(policy)) is not None:
        spec.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR
        spec.detach_ttl.seconds = int(match[1])
    else:
        message = f"Invalid '{_DISCONNECT}': it must be cancel, detach or detach-for=SECONDS."
        raise EdgeError(message, param=_DISCONNECT)


PARAMETERS = (
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
    Parameter(
        CONVERSATION,
        "header",
        "The stored conversation that the request goes on with: its messages precede the request's, and both those and "
        "the answer are appended to it.",
    ),
    Parameter(PERSONA, "header", "The persona that answers."),
    Parameter(_TOKEN_TYPE, "header", "The currency that pays for the answer, or `auto`, where credits are on."),
    Parameter("X-Request-Id", "header", "The client's own name of the request; the answer repeats it."),
)
"""The parameters of every generation."""
