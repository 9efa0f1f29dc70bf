"""The servicer's view of a call, as `grpc.aio.ServicerContext`."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from dragoman.streaming import CallStatus
from dragoman.unary import tell
from dragoman_server.inprocess.exchange import OK, Exchange, Pipe
from dragoman_server.inprocess.metadata import InvalidMetadata, delivered, require_trailing, to_wire
from dragoman_server.inprocess.push import PushTarget, too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from dragoman.streaming import Metadata
    from dragoman_server.inprocess.channel import Method
    from dragoman_server.inprocess.served import Served

_log = logging.getLogger(__name__)

DEFERRED = object()
"""What a handler returns that has deferred its response."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INVALID_METADATA = CallStatus(grpc.StatusCode.INTERNAL, "Invalid metadata")
_NO_REQUEST = CallStatus(grpc.StatusCode.INTERNAL, "The request is missing.")
_NOT_SERIALIZABLE = CallStatus(grpc.StatusCode.INTERNAL, "Exception serializing request!")


class CallRefused(grpc.aio.InternalError):
    """The call has ended because of a message or metadata that cannot be sent."""


def status_code(code: Any) -> grpc.StatusCode:
    """Returns the status code that `grpc.aio` makes of what a servicer sets: a `StatusCode`, or its number."""
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code, grpc.StatusCode.UNKNOWN)


class ServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """The context of one call.

    Attributes:
        push: Where to push the messages; None if the caller reads them one by one.
        callbacks: What is to be called after the handler has ended.
        request_size: Size of the last request that has come, in bytes; unset before the first.
    """

    # What most calls leave as it is has no slot.
    __slots__ = (
        "_exchange",
        "_invocation_metadata",
        "_method",
        "_plain",
        "_served",
        "_status_sent",
        "callbacks",
        "push",
        "request_size",
    )
    _abort_error: grpc.aio.AbortError | None = None
    _code: Any = None
    _details = ""
    _trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    _initial_sent = False

    def __init__(
        self,
        exchange: Exchange,
        method: Method,
        served: Served,
        invocation_metadata: Metadata,
    ) -> None:
        self._exchange = exchange
        self._method = method
        self._served = served
        self._invocation_metadata = invocation_metadata
        self._plain = True  # the handler has said nothing of the status, and sent none
        self._status_sent = False
        self.callbacks: list[Callable[[], object]] | None = None
        responses = exchange.responses
        self.push: PushTarget | None = responses if type(responses) is PushTarget else None

    # Messages.

    async def read(self) -> Any:
        """Returns the next request of a request stream; `grpc.aio.EOF` after the last."""
        self._require_running()
        if self._exchange.requests is None:
            return grpc.aio.EOF
        message = await self._exchange.requests.get()
        self._require_running()
        return message if message is grpc.aio.EOF else self.incoming(message)

    async def write(self, message: Any) -> None:
        """Sends a message of a response stream, as soon as the caller has room for it."""
        self._require_running()
        if self._exchange.status is not None:
            raise CallRefused("The call has ended.")
        responses = self._exchange.responses
        if responses is None:
            raise grpc.aio.UsageError("A call with a unary response has no stream to write to.")
        if not self._initial_sent:
            self._initial_sent = True
            self._exchange.send_initial_metadata(())
        await responses.put(self._outgoing(message))

    def iterator(self, request: Any) -> RequestIterator:
        """Returns the request stream; a unary caller's request is all of it."""
        if not self._method.request_streaming:
            self._exchange.requests = Pipe.of(self._exchange, request)
        return RequestIterator(self)

    async def first_request(self) -> Any:
        """Returns the first request of a stream, for a handler that takes only one.

        Raises:
            CallRefused: If there is none. The call has ended then.
        """
        requests = self._exchange.requests
        message = grpc.aio.EOF if requests is None else await requests.get()
        if message is grpc.aio.EOF:
            raise self._refused(_NO_REQUEST)
        return message

    def incoming(self, message: Any) -> Any:
        """Returns a request as the handler gets it.

        Raises:
            CallRefused: If it cannot be sent. The call has ended then.
        """
        served = self._served
        if message.__class__ is served.request_type:
            size = message.ByteSize()
        else:  # Another type than the handler's: it gets what would have come over a wire.
            try:
                message = self._method.serialize(message) if self._method.serialize else message
                size = len(message)
            except Exception as error:
                _log.exception("Exception serializing request!")
                raise self._refused(_NOT_SERIALIZABLE) from error
            deserializer = served.handler.request_deserializer
            if size <= served.limit and deserializer is not None:
                message = deserializer(message)
        if size > served.limit:
            raise self._refused(too_large("Received", size, served.limit))
        self.request_size = size
        return message

    def _outgoing(self, message: Any, known_size: int | None = None) -> Any:
        """Returns a response as the caller gets it.

        Raises:
            CallRefused: If it is too large. The call has ended then.
        """
        method, limit = self._method, self._served.limit
        size: int
        if message.__class__ is method.response_type:
            size = known_size if known_size is not None and known_size <= limit else message.ByteSize()
            if self._exchange.guard is not None:
                self._exchange.guard.keep(message)
        else:
            serializer = self._served.handler.response_serializer
            message = message if serializer is None else serializer(message)
            size = len(message)
            if size <= limit and method.deserialize is not None:
                message = method.deserialize(message)
        if size > limit:
            raise self._refused(too_large("Sent", size, limit))
        return message

    def _refused(self, status: CallStatus) -> CallRefused:
        self._status_sent = True
        self._plain = False
        self._exchange.fail(status)
        return CallRefused(status.details)

    # Metadata.

    async def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Sends the initial metadata; possible once, before the first message."""
        self._require_running()
        if self._initial_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        try:
            metadata = to_wire(initial_metadata)
        except InvalidMetadata as error:
            raise self._refused(_INVALID_METADATA) from error
        self._initial_sent = True
        self._exchange.send_initial_metadata(metadata)

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Sets the trailing metadata, in place of what was set before."""
        self._trailing_metadata = require_trailing(trailing_metadata)
        self._plain = False

    def trailing_metadata(self) -> Any:
        """Returns the trailing metadata that was set."""
        return self._trailing_metadata

    def invocation_metadata(self) -> Any:
        """Returns the caller's metadata."""
        return delivered(self._invocation_metadata)

    # Status.

    def set_code(self, code: Any) -> None:
        """Sets the status code."""
        self._code = code
        self._plain = False

    def code(self) -> Any:
        """Returns the status code that was set."""
        return self._code

    def set_details(self, details: str) -> None:
        """Sets the status message."""
        if not isinstance(details, str):
            raise TypeError(f"details must be str, not {type(details).__name__}")
        self._details = details
        self._plain = False

    def details(self) -> str:
        """Returns the status message that was set."""
        return self._details

    async def abort(
        self, code: Any, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call with a failure.

        Raises:
            grpc.aio.AbortError: Always, to leave the handler; it must not be kept from doing so.
            ValueError: If the code is OK.
        """
        if self._abort_error is not None:
            raise grpc.aio.UsageError("Abort already called!")
        if status_code(code) is grpc.StatusCode.OK:
            raise ValueError("abort needs another status code than OK")
        if self._status_sent:
            raise grpc.aio.UsageError("RPC already finished.")
        if trailing_metadata:
            self._trailing_metadata = require_trailing(trailing_metadata)
        self._details = details or self._details
        self._code = code
        self._plain = False
        self._abort_error = grpc.aio.AbortError("Locally aborted.")
        self.send_status(self._details)
        raise self._abort_error

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Does what `abort` does, with the three parts of a status."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def send_response(self, message: Any, size: int | None = None) -> None:
        """Ends a call with the handler's unary response, or with the status that was set.

        Args:
            message: The response.
            size: Its size in bytes, if known; may be stated too large.
        """
        self._require_running()
        if self._code is None or status_code(self._code) is grpc.StatusCode.OK:
            self._exchange.response = self._outgoing(message, size)
        self.send_status(self._details)

    def defer(self, ended: Callable[[], None]) -> Callable[[Any, int | None], None] | None:
        """Lets a unary handler return DEFERRED now and respond later, so that no task waits meanwhile.

        Args:
            ended: Called when the call has ended, however: within the response, or on a turn of the loop after any
                other end.

        Returns:
            What takes the response, and its size in bytes if known (it may be stated too large). After the end of the
            call it does nothing. None if the caller expects a stream: then the handler has to wait itself, and `ended`
            is not called.
        """
        if self._exchange.responses is not None:
            return None
        self._exchange.deferred = ended
        return self._respond

    def _respond(self, message: Any, size: int | None = None) -> None:
        exchange = self._exchange
        if exchange.status is not None:
            return
        ended, exchange.deferred = exchange.deferred, None
        then, exchange.then = exchange.then, None
        served = self._served
        if (  # what nearly every response is: `send_response` would come to the same
            self._plain
            and size is not None
            and size <= served.limit
            and message.__class__ is self._method.response_type
            and exchange.guard is None
        ):
            self._plain, self._status_sent = False, True
            exchange.response = message
            exchange.end(OK)
        else:
            try:
                self.send_response(message, size)
            except CallRefused as error:  # the call has ended with that
                _log.debug("A deferred response of method [%s] was refused: %s", served.path, error)
        if ended is not None:
            ended()
        if exchange.detached:
            served.settle(exchange)
        if then is not None:  # last, for it may do anything
            assert exchange.status is not None
            if exchange.status is OK:
                exchange.then_context.run(then, exchange.response, OK)
            else:
                exchange.then_context.run(tell, then, exchange.response, exchange.status)

    def settle_deferred(self) -> None:
        """Does what is left to do for a call that ended before its handler responded."""
        exchange = self._exchange
        ended, exchange.deferred = exchange.deferred, None
        if ended is not None:
            ended()
        if exchange.detached:
            self._served.settle(exchange)

    async def send_only_response(self, message: Any) -> None:
        """Does what `send_response` does for a call whose caller expects a stream."""
        if self._code is None or status_code(self._code) is grpc.StatusCode.OK:
            await self.write(message)
        self.send_status(self._details)

    def send_status(self, details: str) -> None:
        """Ends the call with the code that was set, after the messages that are still on their way."""
        if self._status_sent:
            return
        self._status_sent = True
        self._plain = False
        if self._code is None and not self._trailing_metadata and not details:
            status = OK
        else:
            try:
                trailing = to_wire(self._trailing_metadata)
                code = grpc.StatusCode.OK if self._code is None else status_code(self._code)
                status = CallStatus(code, details, trailing)
            except InvalidMetadata:
                status = _INVALID_METADATA
        self._exchange.finish(status)

    def send_failure(self, error: Exception) -> None:
        """Ends the call with what escaped the handler: UNKNOWN, unless the handler set a code."""
        if self._code is None or status_code(self._code) is grpc.StatusCode.OK:
            self._code = grpc.StatusCode.UNKNOWN
        self.send_status(f"Unexpected {type(error)}: {error}")

    @property
    def abort_error(self) -> grpc.aio.AbortError | None:
        """What `abort` raised, if it was called."""
        return self._abort_error

    def _require_running(self) -> None:
        if self._abort_error is not None:
            raise self._abort_error
        if self._status_sent:
            raise grpc.aio.UsageError("RPC already finished.")

    # The call.

    def time_remaining(self) -> Any:
        """Returns the seconds until the deadline, at least 0; None without one."""
        exchange = self._exchange
        return None if exchange.deadline is None else exchange.time_remaining()

    def cancelled(self) -> bool:
        """Returns whether the caller went away, or the handler itself set CANCELLED."""
        if self._status_sent:
            return status_code(self._code) is grpc.StatusCode.CANCELLED
        return self._exchange.status is not None

    def done(self) -> bool:
        """Returns whether the handler has sent its status."""
        return self._status_sent

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Has a callback called with this context after the handler has ended."""
        if self.callbacks is None:
            self.callbacks = []
        self.callbacks.append(partial(callback, self))

    def run_done_callbacks(self) -> None:
        """Calls the callbacks."""
        for callback in self.callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("Error in callback for method [%s]", self._served.path)

    def peer(self) -> str:
        """Returns `inprocess:`."""
        return "inprocess:"

    def peer_identities(self) -> Iterable[bytes] | None:
        """Returns None: the transport knows no identity."""
        return None

    def peer_identity_key(self) -> str | None:
        """Returns None: the transport knows no identity."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns what is known of the transport's security."""
        return {"transport_security_type": [b"inprocess"]}

    def set_compression(self, compression: grpc.Compression) -> None:
        """Does nothing: nothing is transported."""
        if self._initial_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")

    def disable_next_message_compression(self) -> None:
        """Does nothing: nothing is transported."""


class RequestIterator:
    """The request stream, for handlers that iterate it."""

    __slots__ = ("_context",)

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message
