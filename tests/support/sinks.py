"""A sink that keeps what it gets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.streaming import CallStatus


class KeepingSink:
    """Keeps messages and ends; `react` is called with the number of messages so far."""

    def __init__(self, react: Callable[[int], None] = lambda count: None) -> None:
        self.messages: list[Any] = []
        self.ends: list[CallStatus] = []
        self.react = react
        self._news = asyncio.Event()

    def on_message(self, message: Any) -> None:
        assert not self.ends, "a message after the end"
        self.messages.append(message)
        self._news.set()
        self.react(len(self.messages))

    def on_end(self, status: CallStatus) -> None:
        self.ends.append(status)
        self._news.set()

    async def end(self) -> CallStatus:
        """Waits for the end.

        Raises:
            TimeoutError: If it takes longer than 10 s.
        """
        await self._wait(lambda: bool(self.ends))
        return self.ends[0]

    async def count(self, messages: int) -> None:
        """Waits for so many messages.

        Raises:
            TimeoutError: If it takes longer than 10 s.
        """
        await self._wait(lambda: len(self.messages) >= messages)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()
