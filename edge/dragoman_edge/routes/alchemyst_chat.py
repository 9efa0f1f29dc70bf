"""`/api/v1/chat`: answers in stored chats and without one, in the dialect of Alchemyst's chat API."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman.v1.conversation_service_pb2 import GetConversationRequest
from dragoman_edge.body import read_json_object
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.alchemyst.answer import AnswerOptions, render_direct, render_generated
from dragoman_edge.dialects.alchemyst.chat_errors import field_of
from dragoman_edge.dialects.alchemyst.render import ChatStreamRenderer
from dragoman_edge.dialects.alchemyst.request import check_direct, check_generate
from dragoman_edge.dialects.alchemyst.to_proto import (
    creation_of,
    fill_chat,
    fill_stored_chat,
    title_of,
    wants_research,
    wants_tools,
)
from dragoman_edge.dialects.dialect import Generation
from dragoman_edge.dialects.registry import ALCHEMYST_CHAT
from dragoman_edge.dialects.text import said_in
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.response import Response
from dragoman_edge.routes.beginnings import begin, discard, generate_first
from dragoman_edge.routes.generation import CONVERSATION, PARAMETERS, PERSONA, generate
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from dragoman.streaming import Metadata
    from dragoman.v1.conversation_service_pb2 import Conversation
    from dragoman.v1.run_pb2 import Run, RunSpec
    from dragoman_edge.dialects.alchemyst.schemas import DirectRequest, GenerateRequest
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.stream import Stream

PREFIX = "/api/v1/chat"
DEFAULT_PERSONA = "maya"
"""Who answers where nobody is named."""
_DELTAS = "deltas"


class _Chat(NamedTuple):
    """The chat of a request, and whether this very request has made it."""

    conversation: Conversation
    made: bool


def alchemyst_chat_routes(edge: Edge) -> list[Route]:
    """Returns the routes that generate."""

    async def generate_chat(exchange: Exchange) -> Response | Stream:
        return await answer(exchange)

    async def stream_chat(exchange: Exchange) -> Response | Stream:
        return await answer(exchange, streams=True)

    async def answer(exchange: Exchange, *, streams: bool = False) -> Response | Stream:
        query, deltas = exchange.query(), _wants_deltas(exchange)
        request = check_generate(await read_json_object(exchange.request, edge.settings), query)
        streams = streams or bool(request.get("stream"))
        return await _answer(edge, exchange, request, streams=streams, deltas=deltas and streams)

    async def chat_once(exchange: Exchange) -> Response | Stream:
        _refuse_headers(exchange)
        request = check_direct(await read_json_object(exchange.request, edge.settings))
        response = await generate(edge, exchange, _direct(request), exchange.metadata())
        return _created(response)

    return [
        Route(
            "POST",
            PREFIX,
            chat_once,
            tag=_TAG,
            summary="Answers a conversation, and stores nothing.",
            parameters=_HEADERS,
            request="alchemyst.DirectRequest",
            answers={"application/json": "alchemyst.DirectAnswer"},
            status=201,
            dialect=ALCHEMYST_CHAT,
        ),
        Route(
            "POST",
            f"{PREFIX}/generate",
            generate_chat,
            tag=_TAG,
            summary="Answers in a stored chat, or begins one.",
            description="With `stream` the answer is that of `/api/v1/chat/generate/stream`.",
            parameters=(*_QUERY, *_HEADERS),
            request="alchemyst.GenerateRequest",
            answers={"application/json": "alchemyst.GeneratedAnswer", "text/event-stream": "alchemyst.Frame"},
            status=201,
            streams=True,
            dialect=ALCHEMYST_CHAT,
        ),
        Route(
            "POST",
            f"{PREFIX}/generate/stream",
            stream_chat,
            tag=_TAG,
            summary="Answers in a stored chat, or begins one, and tells on the way what happens.",
            parameters=(*_QUERY, *_HEADERS),
            request="alchemyst.GenerateRequest",
            answers={"text/event-stream": "alchemyst.Frame"},
            streams=True,
            dialect=ALCHEMYST_CHAT,
        ),
    ]


def _direct(request: DirectRequest) -> Generation:
    persona = request.get("persona") or DEFAULT_PERSONA
    options = AnswerOptions(persona)
    return Generation(
        fill=lambda spec: fill_chat(spec.chat, request["chat_history"], persona),
        render=lambda run: render_direct(run, options),
        renderer=None,
        name_of=field_of,
    )


async def _answer(
    edge: Edge, exchange: Exchange, request: GenerateRequest, *, streams: bool, deltas: bool
) -> Response | Stream:
    """Answers in the chat of a request; one that it made is discarded if nothing was said in it."""
    _refuse_headers(exchange)
    metadata = exchange.metadata()
    chat = await _open_chat(edge, exchange, request, metadata)
    chat_id = chat.conversation.short_id
    persona = request.get("persona") or chat.conversation.persona or DEFAULT_PERSONA
    options = AnswerOptions(
        persona=persona,
        chat_id=chat_id,
        title=chat.conversation.title or title_of(request["chat_history"]),
        research_mode=bool(request.get("researchMode")),
        research=wants_research(request),
        tools=wants_tools(request),
        context=len(request.get("fastContext") or ()),
        streams=streams,
        deltas=deltas,
    )
    renderer = ChatStreamRenderer(options)
    said = False

    def fill(spec: RunSpec) -> None:
        fill_stored_chat(spec.chat, request, persona, chat_id)

    def render(run: Run) -> bytes:
        nonlocal said
        said = any(said_in(choice.message) for choice in run.choices)
        return render_generated(run, options)

    generation = Generation(fill, render, (lambda: renderer) if streams else None, field_of)
    try:
        if chat.made:
            response = await generate_first(edge, exchange, generation, metadata, chat_id)
        else:
            response = await generate(edge, exchange, generation, metadata)
    except EdgeError:
        if chat.made and not said:
            await discard(edge, chat_id, metadata)
        raise
    if chat.made and renderer.failure is not None and not renderer.said:
        await discard(edge, chat_id, metadata)
    return _created(response)


async def _open_chat(edge: Edge, exchange: Exchange, request: GenerateRequest, metadata: Metadata) -> _Chat:
    """Returns the chat that a request names, or a new one.

    Raises:
        EdgeError: If it cannot be had; an id that others use is not found.
    """
    core = edge.core.conversations
    chat_id = request.get("chatId")
    wanted = GetConversationRequest(conversation_id=chat_id or "")
    if chat_id:
        try:
            return _Chat((await answer_of(core.GetConversation(wanted, metadata=metadata))).conversation, made=False)
        except EdgeError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
    persona = request.get("persona") or DEFAULT_PERSONA
    creation = creation_of(request, persona, exchange.header("Idempotency-Key") or "")
    try:
        return _Chat(await begin(edge, creation, metadata), made=True)
    except EdgeError as error:
        if error.reason is not Reason.CONFLICT:
            raise
    # A twin of this request was faster, or the id is somebody else's or that of a deleted chat.
    return _Chat((await answer_of(core.GetConversation(wanted, metadata=metadata))).conversation, made=False)


def _refuse_headers(exchange: Exchange) -> None:
    """Refuses the headers whose parameters the dialect has itself.

    Raises:
        EdgeError: If there is one.
    """
    for header, parameter in ((CONVERSATION, "chatId"), (PERSONA, "persona")):
        if header.lower() in exchange.request.headers:
            raise EdgeError(f"'{header}' is not for this route: say it with '{parameter}'.", param=header)


def _wants_deltas(exchange: Exchange) -> bool:
    given = exchange.query().get(_DELTAS, "false")
    if given not in ("true", "false"):
        raise EdgeError(f"Invalid '{_DELTAS}': it must be true or false.", param=_DELTAS)
    return given == "true"


def _created(response: Response | Stream) -> Response | Stream:
    if isinstance(response, Response):
        response.status = 201
    return response


_TAG = "Alchemyst"
_QUERY = (
    Parameter("chatId", "query", "The chat that this goes on with; that of the body wins."),
    Parameter("username", "query", "Kept with a new chat; that of the body wins."),
    Parameter("source", "query", "Where a new chat comes from; that of the body wins."),
    Parameter("title", "query", "The title of a new chat; that of the body wins."),
    Parameter(_DELTAS, "query", "`true` shows the answer while it grows, in frames of a type of their own."),
)
_HEADERS = tuple(one for one in PARAMETERS if one.name not in (CONVERSATION, PERSONA))
