"""Conversations that a request begins: one in which nothing was said is gone again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.conversation_service_pb2 import (
    DeleteConversationRequest,
    GetConversationRequest,
    ListMessagesRequest,
)
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.text import said_in
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.generation import generate, outlives_client

if TYPE_CHECKING:
    from dragoman.streaming import Metadata
    from dragoman.v1.conversation_service_pb2 import Conversation, CreateConversationRequest
    from dragoman_edge.dialects.dialect import Generation
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream

logger = logging.getLogger(__name__)

_WAITS = (0.1, 0.4, 1.5)
"""Seconds between looks at a conversation whose client has left: its turn comes as soon as its run is cancelled."""
_TRIES = 5
"""How often a conversation is looked at that changes while it is to be discarded."""


async def begin(edge: Edge, creation: CreateConversationRequest, metadata: Metadata) -> Conversation:
    """Makes a conversation. If the client leaves meanwhile it is discarded, unless the request can be sent again.

    Args:
        edge: The parts of the edge.
        creation: What is asked for.
        metadata: The metadata of the calls.

    Raises:
        EdgeError: If it cannot be made.
    """
    making = asyncio.ensure_future(answer_of(edge.core.conversations.CreateConversation(creation, metadata=metadata)))
    try:
        return (await asyncio.shield(making)).conversation
    except asyncio.CancelledError:
        if not creation.request_id:
            with contextlib.suppress(EdgeError):  # then there is none
                await discard(edge, (await making).conversation.id, metadata)
        raise


async def generate_first(
    edge: Edge, exchange: Exchange, generation: Generation, metadata: Metadata, conversation_id: str
) -> Response | Stream:
    """Answers the request that has begun a conversation, as `generate` does.

    If the client leaves before its run has begun, the conversation is discarded; a run that had begun leaves its turn
    there, whatever becomes of it.

    Args:
        edge: The parts of the edge.
        exchange: The request.
        generation: What it asks for.
        metadata: The metadata of the calls.
        conversation_id: The conversation.

    Raises:
        EdgeError: If the request is refused, or the run fails before there is anything to show.
    """
    try:
        return await generate(edge, exchange, generation, metadata)
    except asyncio.CancelledError:
        if not outlives_client(exchange):
            await _forsake(edge, conversation_id, metadata)
        raise


async def _forsake(edge: Edge, conversation_id: str, metadata: Metadata) -> None:
    """Purges a conversation that stays empty although its client has left."""
    core = edge.core.conversations
    request = GetConversationRequest(conversation_id=conversation_id)
    try:
        for wait in _WAITS:
            await asyncio.sleep(wait)
            conversation = (await answer_of(core.GetConversation(request, metadata=metadata))).conversation
            if conversation.message_count:
                return
        purge = DeleteConversationRequest(conversation_id=conversation_id, etag=conversation.etag, purge=True)
        await answer_of(core.DeleteConversation(purge, metadata=metadata))
    except EdgeError as error:
        if error.reason not in (Reason.NOT_FOUND, Reason.CONFLICT):  # a conflict: something was said just now
            names = {"conversation_id": conversation_id}
            logger.warning("an empty conversation is kept: %s", error.message, extra=names)


async def discard(edge: Edge, conversation_id: str, metadata: Metadata) -> None:
    """Purges a new conversation, unless another request has said something in it meanwhile. What fails is logged.

    Args:
        edge: The parts of the edge.
        conversation_id: The conversation.
        metadata: The metadata of the calls.
    """
    core = edge.core.conversations
    names = {"conversation_id": conversation_id}
    try:
        for _ in range(_TRIES):
            got = await answer_of(
                core.GetConversation(GetConversationRequest(conversation_id=conversation_id), metadata=metadata)
            )
            listing = ListMessagesRequest(conversation_id=conversation_id, page_size=1000)
            page = await answer_of(core.ListMessages(listing, metadata=metadata))
            if page.next_page_token or any(one.run_id and said_in(one.message) for one in page.messages):
                return
            purge = DeleteConversationRequest(conversation_id=conversation_id, etag=got.conversation.etag, purge=True)
            try:
                await answer_of(core.DeleteConversation(purge, metadata=metadata))
                return
            except EdgeError as error:
                if error.reason is not Reason.CONFLICT:
                    raise
        logger.warning("a conversation without an answer is kept: it changes all the time", extra=names)
    except EdgeError as error:
        if error.reason is not Reason.NOT_FOUND:
            logger.warning("a conversation without an answer is kept: %s", error.message, extra=names)
