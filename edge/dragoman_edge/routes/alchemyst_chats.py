"""`/api/v1/chat`: the stored chats, in the dialect of Alchemyst's chat API; and whose a key is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1.account_service_pb2 import GetCallerRequest
from dragoman_edge.body import read_json_object
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.alchemyst.chats import caller_object, chat_object, list_entry, message_objects
from dragoman_edge.dialects.alchemyst.request import check, check_chat_id, check_save
from dragoman_edge.dialects.alchemyst.schemas import FORK, PATCH, PIN
from dragoman_edge.dialects.alchemyst.to_proto import saved_chat
from dragoman_edge.dialects.openai.request import invalid
from dragoman_edge.dialects.registry import ALCHEMYST_CHAT, ALCHEMYST_LISTS, ALCHEMYST_STORED
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.alchemyst_chat import PREFIX
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from dragoman.streaming import Metadata
    from dragoman_edge.dialects.dialect import Dialect
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.routing import Handler

_PAGE = 1000
_ONE = f"{PREFIX}/{{chatId}}"


def alchemyst_chats_routes(edge: Edge) -> list[Route]:
    """Returns the routes of stored chats."""
    core = edge.core.conversations

    async def list_chats(exchange: Exchange) -> Response:
        metadata = exchange.metadata()
        chats: list[dict[str, Any]] = []
        request = pb.ListConversationsRequest(page_size=_PAGE)
        while True:
            page = await answer_of(core.ListConversations(request, metadata=metadata))
            chats += map(list_entry, page.conversations)
            if not page.next_page_token:
                return _json(exchange, {"chats": chats})
            request = pb.ListConversationsRequest(page_size=_PAGE, page_token=page.next_page_token)

    async def save_chat(exchange: Exchange) -> Response:
        given = check_save(await read_json_object(exchange.request, edge.settings))
        request = saved_chat(given, exchange.header("Idempotency-Key") or "")
        answer = await answer_of(core.CreateConversation(request, metadata=exchange.metadata()))
        return _json(exchange, {"chatId": answer.conversation.short_id}, status=201)

    async def fetch_chat(exchange: Exchange) -> Response:
        chat_id, metadata = _chat_id(exchange), exchange.metadata()
        request = pb.GetConversationRequest(conversation_id=chat_id)
        conversation = (await answer_of(core.GetConversation(request, metadata=metadata))).conversation
        messages = message_objects(await _messages(edge, chat_id, metadata))
        return _json(exchange, {"data": await _shown(edge, conversation, metadata) | {"messages": messages}})

    async def validate_key(exchange: Exchange) -> Response:
        caller = await answer_of(edge.core.accounts.GetCaller(GetCallerRequest(), metadata=exchange.metadata()))
        return _json(exchange, caller_object(caller))

    return [
        _route("GET", f"{PREFIX}/history", list_chats, "Lists the chats, the one that changed last first.", "Chats"),
        _route("POST", f"{PREFIX}/new", save_chat, "Stores a chat.", "ChatId", "SaveRequest"),
        _route("GET", f"{PREFIX}/fetch/{{chatId}}", fetch_chat, "Returns a chat with its messages.", "Data"),
        *_changes(edge),
        _route("GET", "/api/v1/settings/api-keys/validate", validate_key, "Tells whose a key is.", "Caller"),
    ]


def _changes(edge: Edge) -> list[Route]:
    core = edge.core.conversations

    async def fork_chat(exchange: Exchange) -> Response:
        given = check(FORK, await read_json_object(exchange.request, edge.settings))
        chat_id, message_id = check_chat_id(given["chatId"]), given["messageId"]
        request = pb.ForkConversationRequest(conversation_id=chat_id, message_id=message_id)
        answer = await answer_of(core.ForkConversation(request, metadata=exchange.metadata()))
        fork = {"forkedChatId": answer.conversation.short_id, "originalChatId": chat_id}
        return _json(exchange, fork | {"forkedAtMessageId": message_id}, status=201)

    async def pin_chat(exchange: Exchange) -> Response:
        given = check(PIN, await read_json_object(exchange.request, edge.settings))
        return await update(exchange, pb.UpdateConversationRequest(pinned=given["pinned"]))

    async def patch_chat(exchange: Exchange) -> Response:
        given = check(PATCH, await read_json_object(exchange.request, edge.settings))
        if not given:
            raise invalid("title", "There is nothing to change: give 'title' or 'pinned'.")
        return await update(
            exchange, pb.UpdateConversationRequest(title=given.get("title"), pinned=given.get("pinned"))
        )

    async def update(exchange: Exchange, request: pb.UpdateConversationRequest) -> Response:
        request.conversation_id, metadata = _chat_id(exchange), exchange.metadata()
        answer = await answer_of(core.UpdateConversation(request, metadata=metadata))
        return _json(exchange, {"data": await _shown(edge, answer.conversation, metadata)})

    async def delete_chat(exchange: Exchange) -> Response:
        chat_id = _chat_id(exchange)
        request = pb.DeleteConversationRequest(conversation_id=chat_id)
        await answer_of(core.DeleteConversation(request, metadata=exchange.metadata()))
        return _json(exchange, {"message": "The chat was deleted.", "chatId": chat_id})

    return [
        _route("POST", f"{PREFIX}/fork", fork_chat, "Forks a chat at a message.", "Fork", "ForkRequest"),
        _route("PUT", f"{_ONE}/pin", pin_chat, "Pins a chat, or takes the pin out.", "Data", "PinRequest"),
        _route("PATCH", _ONE, patch_chat, "Changes the title of a chat, or its pin.", "Data", "PatchRequest"),
        _route("DELETE", _ONE, delete_chat, "Deletes a chat.", "Deleted"),
    ]


def _route(method: str, path: str, handler: Handler, summary: str, answer: str, request: str = "") -> Route:
    headers = (_KEY,) if request == "SaveRequest" else ()
    return Route(
        method,
        path,
        handler,
        tag="Alchemyst",
        summary=summary,
        parameters=headers,
        request=f"alchemyst.{request}" if request else "",
        answers={"application/json": f"alchemyst.{answer}"},
        status=_CREATED.get(path, 200),
        dialect=_DIALECTS.get(path, ALCHEMYST_STORED),
    )


async def _messages(edge: Edge, chat_id: str, metadata: Metadata) -> list[pb.StoredMessage]:
    messages: list[pb.StoredMessage] = []
    request = pb.ListMessagesRequest(conversation_id=chat_id, page_size=_PAGE)
    while True:
        page = await answer_of(edge.core.conversations.ListMessages(request, metadata=metadata))
        messages += page.messages
        if not page.next_page_token:
            return messages
        request.page_token = page.next_page_token


async def _shown(edge: Edge, conversation: pb.Conversation, metadata: Metadata) -> dict[str, Any]:
    """Returns a chat without its messages; asks whose it is, and for the chat that it was forked from, if need be."""
    owner, forked_from = conversation.user_id, ""
    if not owner:
        owner = (await answer_of(edge.core.accounts.GetCaller(GetCallerRequest(), metadata=metadata))).account_id
    if conversation.forked_from_id:
        request = pb.GetConversationRequest(conversation_id=conversation.forked_from_id)
        try:
            origin = await answer_of(edge.core.conversations.GetConversation(request, metadata=metadata))
            forked_from = origin.conversation.short_id
        except EdgeError as error:
            if error.reason is not Reason.NOT_FOUND:  # it may be deleted by now
                raise
    return chat_object(conversation, owner, forked_from)


def _chat_id(exchange: Exchange) -> str:
    return check_chat_id(exchange.params["chatId"])


def _json(exchange: Exchange, body: dict[str, Any], *, status: int = 200) -> Response:
    response = exchange.json(orjson.dumps(body))
    response.status = status
    return response


_DIALECTS: dict[str, Dialect] = {
    f"{PREFIX}/history": ALCHEMYST_LISTS,
    f"{PREFIX}/new": ALCHEMYST_LISTS,
    "/api/v1/settings/api-keys/validate": ALCHEMYST_CHAT,
}
_CREATED = {f"{PREFIX}/new": 201, f"{PREFIX}/fork": 201}
"""The routes that make chats, and their status."""
_KEY = Parameter("Idempotency-Key", "header", "Names the request: sent again, it gets the first answer.")
