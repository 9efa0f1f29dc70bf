"""`dragoman.v1.ConversationService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1 import conversation_service_pb2_grpc as rpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.conversations.messages import shown, shown_message
from dragoman_server.conversations.service import wanted_filter

if TYPE_CHECKING:
    import grpc

    from dragoman_server.conversations.service import Conversations

    Context = grpc.aio.ServicerContext[Any, Any]


class ConversationServicer(rpc.ConversationServiceServicer):
    """Serves the conversations."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    @mapped
    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        """Makes a conversation."""
        made = await self._conversations.create(caller_of(), request)
        return pb.CreateConversationResponse(conversation=shown(made))

    @mapped
    async def GetConversation(self, request: pb.GetConversationRequest, context: Context) -> pb.GetConversationResponse:
        """Returns a conversation."""
        found = await self._conversations.get(caller_of(), request.conversation_id)
        return pb.GetConversationResponse(conversation=shown(found))

    @mapped
    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """Lists conversations."""
        wanted = wanted_filter(
            query=request.query,
            deleted=request.deleted,
            pinned=request.pinned if request.HasField("pinned") else None,
            source=request.source,
        )
        found, token = await self._conversations.page(caller_of(), wanted, request.page_size, request.page_token)
        return pb.ListConversationsResponse(conversations=map(shown, found), next_page_token=token)

    @mapped
    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.UpdateConversationResponse:
        """Changes a conversation."""
        changed = await self._conversations.update(
            caller_of(),
            request.conversation_id,
            title=request.title if request.HasField("title") else None,
            pinned=request.pinned if request.HasField("pinned") else None,
            etag=request.etag,
        )
        return pb.UpdateConversationResponse(conversation=shown(changed))

    @mapped
    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        """Deletes a conversation."""
        deleted = await self._conversations.delete(
            caller_of(), request.conversation_id, etag=request.etag, purge=request.purge
        )
        return pb.DeleteConversationResponse(conversation=shown(deleted))

    @mapped
    async def UndeleteConversation(
        self, request: pb.UndeleteConversationRequest, context: Context
    ) -> pb.UndeleteConversationResponse:
        """Takes back a deletion."""
        found = await self._conversations.undelete(caller_of(), request.conversation_id)
        return pb.UndeleteConversationResponse(conversation=shown(found))

    @mapped
    async def ForkConversation(
        self, request: pb.ForkConversationRequest, context: Context
    ) -> pb.ForkConversationResponse:
        """Makes a conversation that goes on from a message of another one."""
        fork = await self._conversations.fork(caller_of(), request.conversation_id, request.message_id, request.title)
        return pb.ForkConversationResponse(conversation=shown(fork))

    @mapped
    async def AppendMessages(self, request: pb.AppendMessagesRequest, context: Context) -> pb.AppendMessagesResponse:
        """Appends messages."""
        appended = await self._conversations.append(caller_of(), request)
        return pb.AppendMessagesResponse(
            messages=map(shown_message, appended.messages), conversation=shown(appended.conversation)
        )

    @mapped
    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        """Lists the messages of a conversation."""
        found, token = await self._conversations.messages(
            caller_of(), request.conversation_id, request.page_size, request.page_token
        )
        return pb.ListMessagesResponse(messages=map(shown_message, found), next_page_token=token)

    @mapped
    async def ExportConversation(
        self, request: pb.ExportConversationRequest, context: Context
    ) -> pb.ExportConversationResponse:
        """Returns a conversation as JSON."""
        return pb.ExportConversationResponse(
            json=await self._conversations.export(caller_of(), request.conversation_id)
        )

    @mapped
    async def ImportConversation(
        self, request: pb.ImportConversationRequest, context: Context
    ) -> pb.ImportConversationResponse:
        """Makes a conversation of JSON."""
        made = await self._conversations.import_(caller_of(), request.json)
        return pb.ImportConversationResponse(conversation=shown(made))
