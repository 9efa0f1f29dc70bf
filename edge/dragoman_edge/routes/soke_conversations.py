"""`/api/v1/conversations` and `/api/v1/connections`: what users who logged in have stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1 import conversation_service_pb2 as pb
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.soke.conversations import conversation_object, list_entry
from dragoman_edge.dialects.soke.ids import conversation_of, guid_of
from dragoman_edge.dialects.soke.request import MAX_PAGE_SIZE, check_page
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.soke import PREFIX, TAG, caller_of, enveloped, soke_route
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.routes.soke import Tell

_PAGE = 1000
"""Items of a page of the core."""
_ONE = f"{PREFIX}/conversations/{{conversationId}}"


def soke_conversation_routes(edge: Edge) -> list[Route]:
    """Returns the routes of conversations and connections."""
    core = edge.core.conversations

    async def list_soke_conversations(exchange: Exchange) -> dict[str, Any]:
        """The core's pages follow each other by tokens, and it counts nothing: all are read, without their messages."""
        page = check_page(exchange.query())
        found: list[pb.Conversation] = []
        request = pb.ListConversationsRequest(page_size=_PAGE)
        while True:
            answer = await answer_of(core.ListConversations(request, metadata=exchange.metadata()))
            found += answer.conversations
            if not answer.next_page_token:
                break
            request = pb.ListConversationsRequest(page_size=_PAGE, page_token=answer.next_page_token)
        shown = found[page.start : page.start + page.size]
        return {"conversations": [list_entry(one) for one in shown], "total": len(found)}

    async def get_soke_conversation(exchange: Exchange) -> dict[str, Any]:
        name, metadata = _name(exchange), exchange.metadata()
        request = pb.GetConversationRequest(conversation_id=name)
        got = await answer_of(core.GetConversation(request, metadata=metadata))
        messages: list[pb.StoredMessage] = []
        listing = pb.ListMessagesRequest(conversation_id=name, page_size=_PAGE)
        while True:
            answer = await answer_of(core.ListMessages(listing, metadata=metadata))
            messages += answer.messages
            if not answer.next_page_token:
                return conversation_object(got.conversation, messages)
            listing.page_token = answer.next_page_token

    async def delete_soke_conversation(exchange: Exchange) -> dict[str, Any]:
        request = pb.DeleteConversationRequest(conversation_id=_name(exchange))
        gone = await answer_of(core.DeleteConversation(request, metadata=exchange.metadata()))
        return {"id": guid_of(gone.conversation.id), "deleted": True}

    async def list_soke_connections(exchange: Exchange) -> dict[str, Any]:
        return {"connections": []}  # nothing can be connected yet

    routes = (
        ("GET", f"{PREFIX}/conversations", list_soke_conversations, _LISTS, "Conversations", _PAGES),
        ("GET", _ONE, get_soke_conversation, "Returns a conversation with its messages.", "Conversation", ()),
        ("DELETE", _ONE, delete_soke_conversation, "Deletes a conversation.", "Deleted", ()),
        ("GET", f"{PREFIX}/connections", list_soke_connections, _CONNECTIONS, "Connections", ()),
    )
    return [
        soke_route(
            edge,
            Route(
                method,
                path,
                enveloped(_for_users(edge, tell)),
                tag=TAG,
                summary=summary,
                description="For users who logged in: with an API key it is refused.",
                parameters=parameters,
                answers={"application/json": f"soke.{answer}"},
            ),
        )
        for method, path, tell, summary, answer, parameters in routes
    ]


def _for_users(edge: Edge, tell: Tell) -> Tell:
    """Returns what tells tokens the same, and refuses keys."""

    async def told(exchange: Exchange) -> dict[str, Any]:
        if (await caller_of(edge, exchange)).HasField("key"):
            raise EdgeError("This is for users who logged in: an API key has nothing here.", reason=Reason.FORBIDDEN)
        return await tell(exchange)

    told.__name__ = tell.__name__
    return told


def _name(exchange: Exchange) -> str:
    return conversation_of(exchange.params["conversationId"])


_LISTS = "Lists the conversations of the user, the one that changed last first."
_CONNECTIONS = "Lists the connected platform accounts; there are none yet."
_PAGES = (
    Parameter("page", "query", "Which page, from 1.", {"type": "integer", "minimum": 1, "default": 1}),
    Parameter(
        "pageSize",
        "query",
        "Conversations of a page.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": 20},
    ),
)
