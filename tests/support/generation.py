"""Runs generations against a provider and records everything that its contract speaks of."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.wire import whole_batch

if TYPE_CHECKING:
    from dragoman.v1.event_pb2 import ChoiceFinished, FinishReason, RunEvent
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import Generation, Provider

BOUND = 60.0
"""Seconds after which a generation that should have ended is given up."""


@dataclass
class Recording:
    """A sink that records what it gets and checks the rules of a sink's calls as they come."""

    batches: list[EventBatch] = field(default_factory=list)
    ends: list[Failure | None] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    starting: bool = True
    whole: bool = False
    """Whether the answer came by `on_whole`."""
    ended_at: float = 0.0
    on_batch: object = None
    """Called after each batch, if it can be."""

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()
        self._changed = asyncio.Event()

    def on_events(self, batch: EventBatch) -> None:
        self._check("on_events")
        if not batch.events:
            self.violations.append("an empty batch")
        self.batches.append(batch)
        if callable(self.on_batch):
            self.on_batch()

    def on_text(self, text: str) -> None:
        if not text:
            self.violations.append("an empty text")
        batch = EventBatch()
        batch.events.add().text_delta.text = text
        self.on_events(batch)

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        if not text:
            self.violations.append("an empty text")
        if self.batches:
            self.violations.append("a whole answer after something else")
        self.whole = True
        self.on_events(whole_batch(text, finish_reason, usage))
        self.on_end(None)

    def on_end(self, failure: Failure | None) -> None:
        self._check("on_end")
        self.ended_at = time.monotonic()
        self.ends.append(failure)
        self._changed.set()

    def _check(self, call: str) -> None:
        if self.starting:
            self.violations.append(f"{call} within start()")
        if threading.get_ident() != self._thread:
            self.violations.append(f"{call} on a foreign thread")
        if self.ends:
            self.violations.append(f"{call} after the end")
        self._changed.set()

    async def events_reach(self, count: int) -> None:
        async with asyncio.timeout(BOUND):
            while len(self.events) < count and not self.ends:
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> Failure | None:
        """Waits for the end, and a moment more for what must not come after it."""
        async with asyncio.timeout(BOUND):
            while not self.ends:
                self._changed.clear()
                await self._changed.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.violations == []
        assert len(self.ends) == 1
        return self.ends[0]

    @property
    def events(self) -> list[RunEvent]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("kind") or "" for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.text_delta.text for event in self.events)

    @property
    def reasoning(self) -> str:
        return "".join(event.reasoning_delta.text for event in self.events)

    @property
    def refusal(self) -> str:
        return "".join(event.refusal_delta.text for event in self.events)

    @property
    def finished(self) -> ChoiceFinished | None:
        found = [event.choice_finished for event in self.events if event.HasField("choice_finished")]
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def usage(self) -> Usage | None:
        found = [event.usage_reported.last_call for event in self.events if event.HasField("usage_reported")]
        assert len(found) <= 1
        return found[0] if found else None

    def calls(self) -> list[tuple[str, str, str]]:
        """Returns (id, name, arguments) of the tool calls; each must be started once, then fed, then completed."""
        calls: list[list[str]] = []
        complete: set[int] = set()
        for event in self.events:
            match event.WhichOneof("kind"):
                case "tool_call_started":
                    assert event.tool_call_started.call_index == len(calls)
                    calls.append([event.tool_call_started.call_id, event.tool_call_started.name, ""])
                case "tool_call_arguments_delta":
                    index = event.tool_call_arguments_delta.call_index
                    assert index not in complete
                    calls[index][2] += event.tool_call_arguments_delta.arguments
                case "tool_call_completed":
                    assert event.tool_call_completed.call_index not in complete
                    complete.add(event.tool_call_completed.call_index)
        if self.finished is not None:
            assert complete == set(range(len(calls)))
        return [(call_id, name, arguments) for call_id, name, arguments in calls]


def start(provider: Provider, request: GenerationRequest) -> tuple[Generation, Recording]:
    """Starts a generation into a new recording."""
    recording = Recording()
    generation = provider.start(request, recording)
    recording.starting = False
    return generation, recording


async def generate(provider: Provider, request: GenerationRequest) -> Recording:
    """Runs a generation to its good end."""
    _, recording = start(provider, request)
    failure = await recording.end()
    assert failure is None, failure
    assert_well_formed(recording, request.choice_index)
    return recording


def assert_well_formed(recording: Recording, choice_index: int) -> None:
    """Checks what the contract says of every good end."""
    kinds = recording.kinds
    assert recording.finished is not None
    assert set(kinds[kinds.index("choice_finished") + 1 :]) <= {"usage_reported"}
    for event in recording.events:
        kind = event.WhichOneof("kind")
        assert event.sequence == 0
        assert not event.HasField("event_time")
        if kind not in (None, "usage_reported"):
            assert getattr(event, kind).choice_index == choice_index


def chat(*texts: str, model: str = "") -> ChatSpec:
    """Returns a conversation in which user and assistant take turns."""
    spec = ChatSpec(model=model)
    for index, text in enumerate(texts):
        role = Role.ROLE_ASSISTANT if index % 2 else Role.ROLE_USER
        spec.messages.add(role=role).parts.add().text.text = text
    return spec
