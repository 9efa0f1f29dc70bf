"""A method as it is served."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from dragoman_server.inprocess.context import ServicerContext
    from dragoman_server.inprocess.exchange import Exchange


class Served:
    """A method as it is served: what all its calls have in common.

    Attributes:
        path: The full name.
        handler: The handler.
        function: The handler's function.
        request_streaming: Whether it takes a stream.
        response_streaming: Whether it answers with a stream.
        begin: What begins a call within the call that starts it, if anything does; see `begun_by` in
            `dragoman_server.inprocess`.
        request_type: Class of the requests; None if unknown.
        limit: Largest request and response, in bytes.
        settle: Is told of each call that is over for both sides.
    """

    __slots__ = (
        "begin",
        "function",
        "handler",
        "limit",
        "path",
        "request_streaming",
        "request_type",
        "response_streaming",
        "settle",
    )

    def __init__(
        self, path: str, handler: grpc.RpcMethodHandler[Any, Any], limit: int, settle: Callable[[Exchange], None]
    ) -> None:
        self.path = path
        self.handler = handler
        self.request_streaming: bool = handler.request_streaming
        self.response_streaming: bool = handler.response_streaming
        self.function: Any
        if handler.request_streaming:
            self.function = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            self.function = handler.unary_stream if handler.response_streaming else handler.unary_unary
        self.begin: Callable[[Any, ServicerContext], Any] | None = _bound(self.function, "begin")
        # A generated servicer passes `Message.FromString`, which knows its class.
        self.request_type: object = getattr(handler.request_deserializer, "__self__", None)
        self.limit = limit
        self.settle = settle


def _bound(method: Any, name: str) -> Any:
    """Returns the function that a method has as an attribute, bound as the method is."""
    function, owner = getattr(method, name, None), getattr(method, "__self__", None)
    return function if function is None or owner is None else MethodType(function, owner)
