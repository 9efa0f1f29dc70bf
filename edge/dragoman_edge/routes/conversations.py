"""`/v1/conversations`: stored conversations."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1 import conversation_service_pb2 as pb
from dragoman_edge.body import read_body
from dragoman_edge.calls import answer_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.proto_json import to_json
from dragoman_edge.routes.native import native_route
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

_ALL = "/v1/conversations"
_ONE = _ALL + "/{conversation_id}"
_TAG = "Conversations"
_ETAG = re.compile(r'(?:W/)?"([^"]{0,64})"')


def conversation_routes(edge: Edge) -> list[Route]:
    """Returns the routes of conversations."""
    core = edge.core.conversations
    native = partial(native_route, edge, tag=_TAG)
    return [
        native(
            "POST",
            _ALL,
            core.CreateConversation,
            pb.CreateConversationRequest,
            pb.CreateConversationResponse,
            summary="Makes a conversation, with or without first messages.",
            headers=(_KEY,),
            apply=_apply_key,
            tell=_tell_etag,
        ),
        native(
            "GET",
            _ALL,
            core.ListConversations,
            pb.ListConversationsRequest,
            pb.ListConversationsResponse,
            summary="Lists conversations, the one that was changed last first.",
        ),
        native(
            "GET",
            _ONE,
            core.GetConversation,
            pb.GetConversationRequest,
            pb.GetConversationResponse,
            summary="Returns a conversation, without its messages.",
            tell=_tell_etag,
        ),
        _conditional(
            native(
                "PATCH",
                _ONE,
                core.UpdateConversation,
                pb.UpdateConversationRequest,
                pb.UpdateConversationResponse,
                summary="Changes a conversation's title, or pins it.",
                headers=(_IF_MATCH,),
                apply=_apply_etag,
                tell=_tell_etag,
            )
        ),
        _conditional(
            native(
                "DELETE",
                _ONE,
                core.DeleteConversation,
                pb.DeleteConversationRequest,
                pb.DeleteConversationResponse,
                summary="Deletes a conversation; with `purge=true` for good.",
                headers=(_IF_MATCH,),
                apply=_apply_etag,
            )
        ),
        native(
            "POST",
            _ONE + "/undelete",
            core.UndeleteConversation,
            pb.UndeleteConversationRequest,
            pb.UndeleteConversationResponse,
            summary="Takes back a deletion.",
            tell=_tell_etag,
        ),
        native(
            "POST",
            _ONE + "/fork",
            core.ForkConversation,
            pb.ForkConversationRequest,
            pb.ForkConversationResponse,
            summary="Makes a conversation that goes on from a message of another one.",
            tell=_tell_etag,
        ),
        *_message_routes(edge),
        *_transfer_routes(edge),
    ]


def _message_routes(edge: Edge) -> list[Route]:
    core = edge.core.conversations
    native = partial(native_route, edge, tag=_TAG)
    return [
        native(
            "GET",
            _ONE + "/messages",
            core.ListMessages,
            pb.ListMessagesRequest,
            pb.ListMessagesResponse,
            summary="Lists the messages of a conversation, oldest first.",
        ),
        _conditional(
            native(
                "POST",
                _ONE + "/messages",
                core.AppendMessages,
                pb.AppendMessagesRequest,
                pb.AppendMessagesResponse,
                summary="Appends messages to a conversation.",
                headers=(_IF_MATCH, _KEY),
                apply=_apply_both,
                tell=_tell_etag,
            )
        ),
    ]


def _transfer_routes(edge: Edge) -> list[Route]:
    core = edge.core.conversations

    async def export_conversation(exchange: Exchange) -> Response:
        request = pb.ExportConversationRequest(conversation_id=exchange.params["conversation_id"])
        answer = await answer_of(core.ExportConversation(request, metadata=exchange.metadata()))
        return exchange.json(answer.json)

    async def import_conversation(exchange: Exchange) -> Response:
        request = pb.ImportConversationRequest(json=await read_body(exchange.request, edge.settings))
        answer = await answer_of(core.ImportConversation(request, metadata=exchange.metadata()))
        _tell_etag(exchange, answer)
        return exchange.json(to_json(answer))

    return [
        Route(
            "GET",
            _ONE + "/export",
            export_conversation,
            tag=_TAG,
            summary="Returns a conversation with all its messages, to be kept or carried elsewhere.",
            answers={"application/json": "ExportedConversation"},
        ),
        Route(
            "POST",
            _ALL + "/import",
            import_conversation,
            tag=_TAG,
            summary="Makes a conversation of what `export` returned, here or on another server.",
            request="ExportedConversation",
            answers={"application/json": pb.ImportConversationResponse.DESCRIPTOR.full_name},
        ),
    ]


def _conditional(route: Route) -> Route:
    """Returns a route whose requests may depend on the conversation's etag: HTTP has a status of its own for that."""
    handler = route.handler

    async def handle(exchange: Exchange) -> Any:
        try:
            return await handler(exchange)
        except EdgeError as error:
            if error.reason is Reason.CONFLICT and error.field == "etag" and "if-match" in exchange.request.headers:
                error.status = 412
            raise

    handle.__name__ = handler.__name__
    return replace(route, handler=handle)


def _apply_both(exchange: Exchange, request: Any) -> None:
    _apply_etag(exchange, request)
    _apply_key(exchange, request)


def _apply_etag(exchange: Exchange, request: Any) -> None:
    given = exchange.request.headers.get("if-match", "*").strip()
    if given == "*":
        return
    if (match := _ETAG.fullmatch(given)) is None:
        raise EdgeError("Invalid 'If-Match': it must be one etag, for example \"3\".", param="If-Match")
    request.etag = match[1] or "none"


def _apply_key(exchange: Exchange, request: Any) -> None:
    if (key := exchange.header("Idempotency-Key")) is not None:
        request.request_id = key


def _tell_etag(exchange: Exchange, answer: Any) -> None:
    exchange.headers["ETag"] = f'"{answer.conversation.etag}"'


_IF_MATCH = Parameter(
    "If-Match",
    "header",
    "The `ETag` of an earlier answer: the request is refused with 412 if the conversation has changed since.",
)
_KEY = Parameter("Idempotency-Key", "header", "Names the request: sent again, it gets the first answer.")
