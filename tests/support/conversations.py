"""What tests of conversations need: callers, messages, runs."""

from __future__ import annotations

from typing import Any

from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER, Message
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_server.caller import Caller

ALICE = Caller("default", "key_1", user_id="user_alice")
BOB = Caller("default", "key_2", user_id="user_bob")
KEY = Caller("default", "key_3")
STRANGER = Caller("other", "key_4", user_id="user_alice")


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def said(text: str, role: Any = ROLE_USER) -> Message:
    message = Message(role=role)
    message.parts.add().text.text = text
    return message


def new(text: str, role: Any = ROLE_USER, **values: Any) -> pb.NewMessage:
    return pb.NewMessage(message=said(text, role), **values)


def creation(*texts: str, **values: Any) -> pb.CreateConversationRequest:
    return pb.CreateConversationRequest(messages=[new(text) for text in texts], **values)


def appending(name: str, *texts: str, **values: Any) -> pb.AppendMessagesRequest:
    return pb.AppendMessagesRequest(conversation_id=name, messages=[new(text) for text in texts], **values)


def chat(*texts: str, **values: Any) -> ChatSpec:
    return ChatSpec(messages=[said(text) for text in texts], **values)


def a_run(answer: str | None = "answer", state: Any = Run.STATE_COMPLETED) -> Run:
    run = Run(id="run_" + "0" * 32, state=state, model="demo/echo")
    if answer is not None:
        run.choices.add(message=said(answer, ROLE_ASSISTANT), finish_reason=FinishReason.FINISH_REASON_STOP)
    return run


def texts(messages: Any) -> list[str]:
    return ["".join(part.text.text for part in message.parts) for message in messages]
