"""Stored conversations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman_client._options import as_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import grpc

    from dragoman_client._calls import Caller
    from dragoman_client._options import Messages


class Conversations:
    """Keeps conversations. A turn of one is a chat with the option `conversation_id`.

    Every method raises `DragomanClientError` if its call fails. An id may be the short one.
    """

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = ConversationServiceStub(channel)
        self._caller = caller

    async def create(
        self,
        messages: Messages = (),
        *,
        title: str = "",
        persona: str = "",
        source: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Conversation:
        """Makes a conversation; the contract documents each field."""
        request = pb.CreateConversationRequest(
            messages=_new(messages), title=title, persona=persona, source=source, labels=labels, request_id=request_id
        )
        return (await self._caller.quick(self._stub.CreateConversation, request)).conversation

    async def get(self, conversation_id: str) -> pb.Conversation:
        """Returns a conversation, without its messages."""
        request = pb.GetConversationRequest(conversation_id=conversation_id)
        return (await self._caller.quick(self._stub.GetConversation, request)).conversation

    def list(
        self, query: str = "", *, pinned: bool | None = None, deleted: bool = False
    ) -> AsyncIterator[pb.Conversation]:
        """Yields conversations, the one that was changed last first."""
        request = partial(pb.ListConversationsRequest, query=query, pinned=pinned, deleted=deleted)
        return self._caller.pages(self._stub.ListConversations, request, "conversations")

    def messages(self, conversation_id: str) -> AsyncIterator[pb.StoredMessage]:
        """Yields the messages of a conversation, oldest first."""
        request = partial(pb.ListMessagesRequest, conversation_id=conversation_id)
        return self._caller.pages(self._stub.ListMessages, request, "messages")

    async def append(
        self, conversation_id: str, messages: Messages, *, etag: str = "", request_id: str = ""
    ) -> pb.AppendMessagesResponse:
        """Appends messages."""
        request = pb.AppendMessagesRequest(
            conversation_id=conversation_id, messages=_new(messages), etag=etag, request_id=request_id
        )
        return await self._caller.quick(self._stub.AppendMessages, request)

    async def update(
        self, conversation_id: str, *, title: str | None = None, pinned: bool | None = None, etag: str = ""
    ) -> pb.Conversation:
        """Changes the title, or pins the conversation."""
        request = pb.UpdateConversationRequest(conversation_id=conversation_id, title=title, pinned=pinned, etag=etag)
        return (await self._caller.quick(self._stub.UpdateConversation, request)).conversation

    async def fork(self, conversation_id: str, message_id: str = "", *, title: str = "") -> pb.Conversation:
        """Makes a conversation that goes on from a message of another one; by default, from its last."""
        request = pb.ForkConversationRequest(conversation_id=conversation_id, message_id=message_id, title=title)
        return (await self._caller.quick(self._stub.ForkConversation, request)).conversation

    async def delete(self, conversation_id: str, *, etag: str = "", purge: bool = False) -> pb.Conversation:
        """Deletes a conversation; unless it is purged, it can be had back."""
        request = pb.DeleteConversationRequest(conversation_id=conversation_id, etag=etag, purge=purge)
        return (await self._caller.quick(self._stub.DeleteConversation, request)).conversation

    async def undelete(self, conversation_id: str) -> pb.Conversation:
        """Takes back a deletion."""
        request = pb.UndeleteConversationRequest(conversation_id=conversation_id)
        return (await self._caller.quick(self._stub.UndeleteConversation, request)).conversation

    async def export_json(self, conversation_id: str) -> bytes:
        """Returns a conversation with its messages as JSON."""
        request = pb.ExportConversationRequest(conversation_id=conversation_id)
        return (await self._caller.quick(self._stub.ExportConversation, request)).json

    async def import_json(self, json: bytes) -> pb.Conversation:
        """Makes a conversation of what `export_json` returned, from this server or another one."""
        request = pb.ImportConversationRequest(json=json)
        return (await self._caller.quick(self._stub.ImportConversation, request)).conversation


def _new(messages: Messages) -> Iterable[pb.NewMessage]:
    return [pb.NewMessage(message=message) for message in as_messages(messages)]
