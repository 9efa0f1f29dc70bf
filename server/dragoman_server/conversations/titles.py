"""Titles of conversations that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.titles import title_from
from dragoman.v1.message_pb2 import ROLE_SYSTEM, ROLE_USER, Message
from dragoman.v1.run_pb2 import ChatSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_QUOTED_CHARS = 2000
"""How much of each message the model sees that is asked for a title."""
_MAX_TOKENS = 32
_TASK = (
    "Write a title for the conversation that follows: at most six words, in its own language, without quotation marks "
    "and without a full stop. Answer with the title alone."
)


def first_title(messages: Iterable[Message]) -> str:
    """Returns the title that a conversation gets from its first user message; empty if it has none with a text."""
    for message in messages:
        if message.role == ROLE_USER and (title := title_from(text_of(message))):
            return title
    return ""


def title_request(model: str, messages: Iterable[Message]) -> ChatSpec:
    """Returns what a model is asked for to make a title."""
    chat = ChatSpec(model=model)
    chat.sampling.max_output_tokens = _MAX_TOKENS
    chat.messages.add(role=ROLE_SYSTEM).parts.add().text.text = _TASK
    quoted = [text_of(message)[:MAX_QUOTED_CHARS] for message in messages]
    chat.messages.add(role=ROLE_USER).parts.add().text.text = "\n\n".join(text for text in quoted if text)
    return chat


def title_of_answer(text: str) -> str:
    """Returns the title that a model's answer holds; empty if it holds none."""
    lines = [line.strip(" \t\"'“”„«»*#`.") for line in text.strip().splitlines()]
    return title_from(next((line for line in lines if line), ""))


def text_of(message: Message) -> str:
    """Returns what a message says in words: its texts and refusals."""
    said = (part.text.text or part.refusal.text for part in message.parts)
    return "\n".join(text for text in said if text)
