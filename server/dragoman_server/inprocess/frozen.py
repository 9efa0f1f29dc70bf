"""The check that nobody changes a message that was handed over. It serializes every message twice: for tests only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message


class FrozenMessageChanged(AssertionError):
    """Someone changed a message after handing it over, or while reading it."""


class FrozenGuard:
    """Remembers what the messages of one call looked like."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[tuple[Message, bytes]] = []

    def keep(self, message: Message) -> None:
        """Remembers a message as it is now."""
        self._kept.append((message, message.SerializeToString(deterministic=True)))

    def verify(self) -> None:
        """Compares all messages with what they were.

        Raises:
            FrozenMessageChanged: If one differs.
        """
        for message, before in self._kept:
            if message.SerializeToString(deterministic=True) != before:
                raise FrozenMessageChanged(f"{message.DESCRIPTOR.full_name} was changed after it was handed over")
