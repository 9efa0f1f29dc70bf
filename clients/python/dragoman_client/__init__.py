"""The Python client of the Dragoman contract: asyncio first, typed, over gRPC.

The messages are those of the contract, `dragoman.v1`.
"""

from dragoman_client._accounts import Accounts, Users
from dragoman_client._client import Answer, Dragoman
from dragoman_client._conversations import Conversations
from dragoman_client._errors import (
    Conflict,
    DeadlineExceeded,
    DragomanClientError,
    EventsEvicted,
    Forbidden,
    InvalidRequest,
    NotFound,
    RunCancelled,
    RunFailed,
    StreamInterrupted,
    Unauthenticated,
    Unavailable,
)
from dragoman_client._keys import Keys
from dragoman_client._options import ChatOptions, Messages
from dragoman_client._runs import Runs
from dragoman_client._stream import RunStream

__all__ = [
    "Accounts",
    "Answer",
    "ChatOptions",
    "Conflict",
    "Conversations",
    "DeadlineExceeded",
    "Dragoman",
    "DragomanClientError",
    "EventsEvicted",
    "Forbidden",
    "InvalidRequest",
    "Keys",
    "Messages",
    "NotFound",
    "RunCancelled",
    "RunFailed",
    "RunStream",
    "Runs",
    "StreamInterrupted",
    "Unauthenticated",
    "Unavailable",
    "Users",
]
