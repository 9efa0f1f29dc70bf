"""Helpers for tests of the run engine: an engine over the scripted provider, and a watcher that collects."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dragoman.v1.event_pb2 import RunEvent, TextDelta
from dragoman.v1.message_pb2 import Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec, RunSpec
from dragoman_server.caller import Caller
from dragoman_server.catalog.service import Catalog
from dragoman_server.clock import system_clock
from dragoman_server.errors import DragomanError
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.runs.service import Runs
from dragoman_server.settings import LimitSettings, RunSettings
from tests.support.core import ONCE

CALLER = Caller("default", "key_1")
STRANGER = Caller("other", "key_2")


def chat_spec(prompt: str = "hello", /, *, model: str = "demo/echo", **script: Any) -> RunSpec:
    """Returns a spec with one user message; keyword arguments make it a script for the scripted provider."""
    if script:
        prompt = "SCRIPT " + json.dumps(script)
    message = Message(role=Role.ROLE_USER, parts=[Part(text=TextPart(text=prompt))])
    return RunSpec(chat=ChatSpec(model=model, messages=[message]))


@asynccontextmanager
async def engine(
    settings: RunSettings | None = None, limits: LimitSettings | None = None, provider: Any = None
) -> AsyncIterator[Runs]:
    """Yields an engine whose provider `demo` is the scripted one."""
    provider = provider or ScriptedProvider("demo")
    catalog = Catalog([provider], [], routing=RoutingTable(ONCE, {provider.name: provider}))
    runs = Runs(settings or RunSettings(), limits or LimitSettings(), catalog, system_clock)
    try:
        yield runs
    finally:
        await runs.drain(0)
        await provider.close()


class Collector:
    """A watcher that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.batches: list[EventBatch] = []
        self.closed = 0
        self.error: DragomanError | None = None

    def on_batch(self, batch: EventBatch, size: int) -> None:
        assert not self.closed, "nothing may follow the end"
        self.batches.append(batch)
        self.events.extend(batch.events)

    def on_closed(self, error: DragomanError | None) -> None:
        self.closed += 1
        self.error = error

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]

    @property
    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("kind") for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.text_delta.text for event in self.events)


class TextCollector(Collector):
    """A watcher that takes text without a batch, unless it would be larger than so many bytes."""

    def __init__(self, most: int = 1 << 30) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.sizes: list[int] = []
        self._most = most

    def on_text(self, text: str, sequence: int, size: int) -> bool:
        assert not self.closed, "nothing may follow the end"
        if size > self._most:
            return False
        self.texts.append(text)
        self.sizes.append(size)
        self.events.append(RunEvent(sequence=sequence, text_delta=TextDelta(text=text)))
        return True


def text_batch(*texts: str, choice_index: int = 0) -> EventBatch:
    """Returns a batch of text deltas."""
    batch = EventBatch()
    for text in texts:
        delta = batch.events.add().text_delta
        delta.choice_index = choice_index
        delta.text = text
    return batch
