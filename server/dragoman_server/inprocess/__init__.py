"""The in-process channel: gRPC calls between two parts of one process, without socket and serialization.

It keeps what callers and servicers may rely on: generated stubs, servicers and interceptors work unmodified, and
metadata, deadlines, cancellation, status, back-pressure and size limits behave as on a `grpc.aio` channel. Messages are
handed over as they are; nobody may change one afterwards.

    server.py     InProcessServer: handlers, interceptors, the task of each call
    channel.py    InProcessChannel: what stubs, `open_stream` and `begin_call` need
    calls.py      the caller's view of a call
    context.py    the servicer's view of a call
    push.py       messages pushed into a sink
    served.py     a method as it is served
    exchange.py   what both sides of a call share
    metadata.py   metadata as a wire would deliver it
    frozen.py     the check that nobody changes a message (for tests)

Two things a servicer may do here and nowhere else save tasks: push the messages of a stream (`context.push`), and begin
at once and respond later (`begun_by`, `context.defer`).

Where `grpc.aio` leaves a caller hanging or hides a mistake, this channel ends the call instead: a request that cannot
be serialized is refused (there: sent as an empty one), `abort(OK)` and a handler that cancels itself end the call
(there: never), and a dropped stream call is cancelled at once. `ServicerContext.cancelled()` is true after the caller
went away.
"""

from dragoman_server.inprocess.channel import InProcessChannel
from dragoman_server.inprocess.context import DEFERRED
from dragoman_server.inprocess.push import PushFlow, PushTarget
from dragoman_server.inprocess.server import InProcessServer, begun_by

__all__ = ["DEFERRED", "InProcessChannel", "InProcessServer", "PushFlow", "PushTarget", "begun_by"]
