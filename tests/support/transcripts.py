"""Golden transcripts: what the events of a run look like on the wire, byte for byte.

A transcript is a text file of three parts: the options of the request as JSON, the batches of events as proto-JSON (one
a line), and the bytes. To write one anew, run with `DRAGOMAN_WRITE_GOLDEN=1`, then read what changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from google.protobuf.json_format import Parse

from dragoman.v1.event_pb2 import TextDelta
from dragoman.v1.run_service_pb2 import StreamRunResponse

if TYPE_CHECKING:
    from dragoman_edge.sse import Renderer, TextRenderer

OptionsT = TypeVar("OptionsT")

_EVENTS, _WIRE = "--- events\n", "--- wire\n"


class Transcript(NamedTuple, Generic[OptionsT]):
    """The parts of a file."""

    options: OptionsT
    batches: list[StreamRunResponse]
    wire: str


class Transcripts(Generic[OptionsT]):
    """The transcripts of a folder, in one dialect.

    Attributes:
        files: Their files.
    """

    def __init__(
        self, folder: Path, options: Callable[..., OptionsT], renderer: Callable[[OptionsT], Renderer[Any]]
    ) -> None:
        self.files = sorted(folder.glob("*.txt"))
        self._options = options
        self._renderer = renderer

    def read(self, path: Path) -> Transcript[OptionsT]:
        options, _, rest = path.read_bytes().decode().partition(_EVENTS)
        events, _, wire = rest.partition(_WIRE)
        batches = [Parse(line, StreamRunResponse()) for line in events.strip("\n").split("\n")]
        return Transcript(self._options(**json.loads(options)), batches, wire)

    def render(
        self, options: OptionsT, batches: list[StreamRunResponse], *, keep_alives: bool = False, as_text: bool = False
    ) -> str:
        """Returns what a stream of the batches says.

        Args:
            options: The options of the request.
            batches: The batches.
            keep_alives: Whether a keep-alive comes before each of them.
            as_text: Whether batches of nothing but text come as that text.
        """
        renderer = self._renderer(options)
        wire = b""
        for batch in batches:
            if renderer.ended:
                break
            wire += renderer.keep_alive if keep_alives else b""
            if as_text and _is_text(batch):
                event = batch.events[0]
                wire += cast("TextRenderer[Any]", renderer).render_text(event.text_delta.text, event.sequence)
            else:
                wire += renderer.render(batch)
        assert renderer.ended
        return (wire + (renderer.fail(renderer.failure) if renderer.failure else b"")).decode()

    def check(self, path: Path) -> None:
        """Compares a transcript with what is rendered now, or writes it anew."""
        options, batches, expected = self.read(path)
        wire = self.render(options, batches)
        if os.environ.get("DRAGOMAN_WRITE_GOLDEN"):
            path.write_bytes((path.read_bytes().decode().partition(_WIRE)[0] + _WIRE + wire).encode())
        else:
            assert wire == expected

    def check_batches(self, path: Path) -> None:
        """Checks that it does not matter how the events are put into batches, and whether text is put into any."""
        options, batches, expected = self.read(path)
        alone = [StreamRunResponse(run_id=batch.run_id, events=[event]) for batch in batches for event in batch.events]
        assert self.render(options, alone) == expected
        assert self.render(options, alone, as_text=True) == expected
        together = StreamRunResponse(run_id=batches[0].run_id, events=[event for b in batches for event in b.events])
        assert self.render(options, [together]) == expected


def _is_text(batch: StreamRunResponse) -> bool:
    """Whether a batch is one piece of text of choice 0 and nothing else."""
    return [event.text_delta for event in batch.events] == [TextDelta(text=batch.events[0].text_delta.text)] and bool(
        batch.events[0].text_delta.text
    )
