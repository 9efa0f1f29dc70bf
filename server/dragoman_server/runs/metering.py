"""Keeps the answer of a run that is paid for within what is reserved for it.

Where the request has an output limit, providers are told it, and nearly all of them keep it: the others are stopped.
Where there is none, more is reserved while the answer grows, until the balance is used up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.runs.usage import CHARACTERS_PER_TOKEN
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from dragoman_server.credits.service import Hold
    from dragoman_server.providers.base import EventBatch

TOLERANCE = 1.5
"""How far a count by characters may lie above the limit: some texts have longer tokens than others."""

EARLY = 0.5
"""At which part of what is reserved more is asked for."""

logger = get_logger(__name__)


class Meter:
    """Counts what a run says.

    Args:
        hold: What is reserved for it.
        choices: How many choices share it.
        grows: Whether more may be reserved.
        stop: Ends the answer where it is; called once at most.
    """

    __slots__ = ("_bound", "_choices", "_extending", "_grows", "_hold", "_said", "_stop")

    def __init__(self, hold: Hold, choices: int, stop: Callable[[], None], *, grows: bool) -> None:
        self._hold = hold
        self._choices = choices
        self._grows = grows
        self._stop: Callable[[], None] | None = stop
        self._said = 0
        self._extending = False
        self._bound = self._characters(EARLY if grows else TOLERANCE)

    def count(self, batch: EventBatch) -> None:
        """Counts the text of a batch; see `count_text`."""
        for event in batch.events:
            self._said += len(event.reasoning_delta.text) + len(event.refusal_delta.text)
            self._said += len(event.tool_call_arguments_delta.arguments)
            self.count_text(event.text_delta.text)

    def count_text(self, text: str) -> None:
        """Counts a text; asks for more, or stops the answer, when it comes to the end of its means."""
        self._said += len(text)
        if self._said <= self._bound or self._extending:
            return
        if self._grows:
            self._extending = True
            self._hold.extend(2 * self._hold.output_tokens).add_done_callback(self._extended)
        elif self._stop is not None:
            stop, self._stop = self._stop, None
            stop()

    def close(self) -> None:
        """Ends the counting: the answer is complete, or its run has ended."""
        self._stop = None

    def _extended(self, answer: asyncio.Future[bool]) -> None:
        self._extending = False
        if error := answer.exception():
            logger.warning("no more could be reserved for an answer", error=str(error))
        self._grows = error is None and answer.result()
        self._bound = self._characters(EARLY if self._grows else TOLERANCE)

    def _characters(self, part: float) -> int:
        return int(self._hold.output_tokens * self._choices * CHARACTERS_PER_TOKEN * part)
