"""What of a stored conversation a model is shown, and what of a request is new in it.

A stored conversation may hold what no provider takes: answers that broke off, calls of tools that nobody answered. The
client cannot mend it, so it is left out here; what is stored stays as it is.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from dragoman.v1.conversation_service_pb2 import StoredMessage
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, ROLE_TOOL, ROLE_USER, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragoman.v1.message_pb2 import Part
    from dragoman_server.store.conversations.records import MessageRecord

_INSTRUCTIONS = (ROLE_SYSTEM, ROLE_DEVELOPER)


def continued(stored: Sequence[MessageRecord], request: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Returns the messages that precede a request's own, and which of its own are new.

    Of the stored ones are left out: calls of tools without a result and results without a call, the thoughts of earlier
    turns, the calls and thoughts of answers that broke off, and messages that then say nothing. Of the request's own:
    instructions at its beginning that are in force already, as clients send them every time.

    Args:
        stored: The chain, oldest first.
        request: The messages of the request.
    """
    messages = [Message.FromString(record.body) for record in stored]
    in_force = {
        message.role: record.body
        for record, message in zip(stored, messages, strict=True)
        if message.role in _INSTRUCTIONS
    }
    new = list(request)
    while len(new) > 1 and new[0].role in in_force and new[0].SerializeToString() == in_force[new[0].role]:
        del new[0]
    for record, message in zip(stored, messages, strict=True):
        if record.state != StoredMessage.STATE_COMPLETE:
            _keep(message, [not (part.HasField("tool_call") or part.HasField("reasoning")) for part in message.parts])
    _drop_thoughts(messages, new)
    _drop_loose_calls(messages, new)
    return [message for message in messages if any(map(_says_something, message.parts))], new


def unknown_of(stored: Sequence[MessageRecord], request: Sequence[Message]) -> list[Message]:
    """Returns which messages of a request, that has the whole history as its client knows it, are not stored yet.

    Messages are the same if they have the same role and the same words. What clients do not show, or do not send again,
    is passed over: instructions, and messages without words. If the client has another history than the store, what
    follows its last answer is new.

    Args:
        stored: The chain, oldest first.
        request: The messages of the request.
    """
    known = [key for record in stored if (key := _said(Message.FromString(record.body)))]
    asked = [(index, key) for index, message in enumerate(request) if (key := _said(message))]
    if known == [key for _, key in asked[: len(known)]]:
        begin = asked[len(known) - 1][0] + 1 if known else 0
    else:
        begin = max((index + 1 for index, message in enumerate(request) if message.role == ROLE_ASSISTANT), default=0)
    return list(request[begin:])


def _said(message: Message) -> tuple[int, str] | None:
    """Returns who said which words; None for instructions and for messages without words."""
    words = " ".join("".join(part.text.text for part in message.parts).split())
    return None if message.role in _INSTRUCTIONS or not words else (message.role, words)


def _drop_thoughts(messages: Sequence[Message], new: Sequence[Message]) -> None:
    """Drops the thoughts before the last question: a provider needs only those of the calls that are being answered."""
    if any(message.role == ROLE_USER for message in new):
        last = len(messages)
    else:
        last = max((index for index, message in enumerate(messages) if message.role == ROLE_USER), default=0)
    for message in messages[:last]:
        if message.role == ROLE_ASSISTANT:
            _keep(message, [not part.HasField("reasoning") for part in message.parts])


def _drop_loose_calls(messages: Sequence[Message], new: Sequence[Message]) -> None:
    """Drops calls that no tool message behind them answers, and results of calls that are not before them."""
    following = [*messages, *new]
    calls: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == ROLE_TOOL:
            _keep(message, [part.tool_result.call_id in calls for part in message.parts])
            continue
        calls = {part.tool_call.id for part in message.parts if part.HasField("tool_call")}
        if calls:
            calls &= _answered(islice(following, index + 1, None))
            _keep(message, [not part.HasField("tool_call") or part.tool_call.id in calls for part in message.parts])


def _answered(following: Iterable[Message]) -> set[str]:
    """Returns the calls that the tool messages at the beginning answer."""
    answered: set[str] = set()
    for message in following:
        if message.role != ROLE_TOOL:
            break
        answered |= {part.tool_result.call_id for part in message.parts}
    return answered


def _keep(message: Message, wanted: Sequence[bool]) -> None:
    for index in reversed(range(len(wanted))):
        if not wanted[index]:
            del message.parts[index]


def _says_something(part: Part) -> bool:
    kind = part.WhichOneof("kind")
    return kind is not None and (kind not in ("text", "refusal") or bool(getattr(part, kind).text))
