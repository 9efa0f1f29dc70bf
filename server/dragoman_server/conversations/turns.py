"""A turn: what a run says in a stored conversation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.v1.conversation_service_pb2 import StoredMessage
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, Message
from dragoman.v1.run_pb2 import Run
from dragoman_server.conversations.messages import new_message
from dragoman_server.errors import NotFound
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.store.conversations.records import Appended, NewMessage

logger = get_logger(__name__)

_STATES = {
    Run.STATE_COMPLETED: StoredMessage.STATE_COMPLETE,
    Run.STATE_FAILED: StoredMessage.STATE_FAILED,
}


class Turn:
    """A turn of a conversation. One that is never closed leaves nothing behind.

    Args:
        chat: What the model is asked.
        conversation_id: The conversation; empty if the run is no turn of one.
        keep: Appends the turn of a run to the conversation.

    Attributes:
        chat: What the model is asked: the history before the new messages, the context before all. It names no
            conversation.
        conversation_id: The conversation, by its id; empty if the run is no turn of one.
    """

    __slots__ = ("_closed", "_keep", "chat", "conversation_id")

    def __init__(
        self,
        chat: ChatSpec,
        conversation_id: str = "",
        keep: Callable[[Run], asyncio.Future[Appended]] | None = None,
    ) -> None:
        self.chat = chat
        self.conversation_id = conversation_id
        self._keep = keep
        self._closed: asyncio.Future[list[str]] | None = None

    def close(self, record: Run) -> asyncio.Future[list[str]]:
        """Appends what was asked and answered to the conversation; called in the event loop, and never blocks.

        Args:
            record: The run, ended: completed, failed or cancelled. What it said until then is the answer.

        Returns:
            The ids of the messages, when they are on disk; the answer is the last one. Empty if the run is no turn of a
            conversation, or that was purged meanwhile. Later calls return the same future. It raises `Unavailable` if
            the database does not answer.
        """
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            if self._keep is None:
                self._closed.set_result([])
            else:
                self._keep(record).add_done_callback(self._settle)
        return self._closed

    def _settle(self, kept: asyncio.Future[Appended]) -> None:
        closed = self._closed
        if closed is None or closed.done():
            return
        if kept.cancelled():
            closed.cancel()
        elif (error := kept.exception()) is None:
            closed.set_result([message.id for message in kept.result().messages])
        elif isinstance(error, NotFound):
            logger.warning("a turn is lost: its conversation was purged", conversation_id=self.conversation_id)
            closed.set_result([])
        else:
            closed.set_exception(error)


def answer_of(record: Run, now: int) -> NewMessage:
    """Returns what a run said, as it is stored; empty if it said nothing: that it failed is worth knowing too."""
    said = record.choices[0].message if record.choices else Message()
    if said.role != ROLE_ASSISTANT:
        answer = Message(role=ROLE_ASSISTANT)
        answer.parts.extend(said.parts)
        said = answer
    return new_message(
        said,
        now,
        state=_STATES.get(record.state, StoredMessage.STATE_CANCELLED),
        run_id=record.id,
        model=record.model,
    )
