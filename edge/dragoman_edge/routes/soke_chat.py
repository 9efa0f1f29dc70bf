"""`POST /api/v1/chat/completions`: answers to API keys, and in the stored conversations of users who logged in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.credentials import looks_like_token
from dragoman_edge.body import read_json_object
from dragoman_edge.dialects.dialect import Generation
from dragoman_edge.dialects.soke.answer import options_of, render_completion
from dragoman_edge.dialects.soke.errors import field_of
from dragoman_edge.dialects.soke.headers import tell_run
from dragoman_edge.dialects.soke.ids import conversation_of, guid_of
from dragoman_edge.dialects.soke.render import StreamRenderer
from dragoman_edge.dialects.soke.request import check_chat
from dragoman_edge.dialects.soke.to_proto import creation_of, fill_chat
from dragoman_edge.dialects.text import said_in
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.beginnings import begin, discard, generate_first
from dragoman_edge.routes.generation import CONVERSATION, PARAMETERS, generate
from dragoman_edge.routes.soke import PREFIX, TAG, soke_route
from dragoman_edge.routing import Route
from dragoman_edge.served import DROPPED

if TYPE_CHECKING:
    from dragoman.streaming import Metadata
    from dragoman.v1.run_pb2 import Run
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.soke.request import Checked
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream


def soke_chat_routes(edge: Edge) -> list[Route]:
    """Returns the route of chat completions."""

    async def create_soke_completion(exchange: Exchange) -> Response | Stream:
        # Keys are stateless here, tokens are not. Which of the two a credential is, its shape says, as it does in the
        # core: no call is needed to ask. Nothing is granted by that: the core has yet to say whether it is good.
        credential, metadata = exchange.credential(), exchange.metadata()
        checked = check_chat(await read_json_object(exchange.request, edge.settings))
        if CONVERSATION.lower() in exchange.request.headers:
            message = f"'{CONVERSATION}' is not for this route: say it with 'conversationId'."
            raise EdgeError(message, param=CONVERSATION)
        if credential is None or not looks_like_token(credential):
            return await generate(edge, exchange, _Turn(edge, checked).generation(), metadata)
        if given := checked.request.get("conversationId"):
            return await generate(edge, exchange, _Turn(edge, checked, conversation_of(given)).generation(), metadata)
        return await _begin_conversation(edge, exchange, checked, metadata)

    return [
        soke_route(
            edge,
            Route(
                "POST",
                f"{PREFIX}/chat/completions",
                create_soke_completion,
                tag=TAG,
                summary="Answers, as Soke does.",
                description=_DESCRIPTION,
                parameters=tuple(one for one in PARAMETERS if one.name != CONVERSATION),
                request="soke.ChatRequest",
                answers={"application/json": "soke.Completion", "text/event-stream": "soke.Frame"},
                streams=True,
            ),
        )
    ]


async def _begin_conversation(
    edge: Edge, exchange: Exchange, checked: Checked, metadata: Metadata
) -> Response | Stream:
    """Answers in a new conversation, which is discarded if nothing was said in it."""
    creation = creation_of(exchange.header("Idempotency-Key") or "")
    conversation_id = (await begin(edge, creation, metadata)).id
    turn = _Turn(edge, checked, conversation_id)
    try:
        response = await generate_first(edge, exchange, turn.generation(), metadata, conversation_id)
    except EdgeError:
        if not turn.said:
            await discard(edge, conversation_id, metadata)
        raise
    if turn.renderer.failure is not None and not turn.said:
        await discard(edge, conversation_id, metadata)
    return response


class _Turn:
    """A request and its answer.

    Args:
        edge: The parts of the edge.
        checked: The request.
        conversation_id: The conversation, in the words of the contract; empty for none.

    Attributes:
        renderer: Renders the stream, if it is one.
    """

    def __init__(self, edge: Edge, checked: Checked, conversation_id: str = "") -> None:
        self._request, self._left_out = checked
        self._model = edge.settings.soke_model
        self._conversation_id = conversation_id
        self._options = options_of(self._request, guid_of(conversation_id) if conversation_id else None)
        self._said = False
        self.renderer = StreamRenderer(self._options)

    @property
    def said(self) -> bool:
        """Whether the model has said anything."""
        return self._said or self.renderer.said

    def generation(self) -> Generation:
        """Returns what is asked for."""
        return Generation(
            fill=lambda spec: fill_chat(spec.chat, self._request, self._model, self._conversation_id),
            render=self._render,
            renderer=(lambda: self.renderer) if self._request.get("stream") else None,
            name_of=field_of,
            tell=self._tell,
        )

    def _render(self, run: Run) -> bytes:
        self._said = any(said_in(choice.message) for choice in run.choices)
        return render_completion(run, self._options)

    def _tell(self, headers: dict[str, str], told: Run | StreamRunResponse) -> None:
        tell_run(headers, told)
        if self._left_out:
            before = headers.get(DROPPED, "").split(", ")
            headers[DROPPED] = ", ".join(dict.fromkeys(name for name in (*before, *self._left_out) if name))


_DESCRIPTION = """\
With an API key nothing is stored. With the token of a login or of an identity provider, the answer is a turn of a
stored conversation: the one that `conversationId` names, or a new one. `X-Soke-Key` wins over `Authorization`, which
may hold either. With `stream: true` the answer is a stream of frames with a `type`, which ends with `[DONE]`; with
`stream_options: {"format": "openai"}` it is one of `chat.completion.chunk` objects."""
