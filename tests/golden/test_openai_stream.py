"""Golden transcripts: what the events of a run look like on the wire, byte for byte.

A transcript is a text file of three parts: the options of the request as JSON, the batches of events as proto-JSON (one
a line), and the bytes. To write one anew, run with `DRAGOMAN_WRITE_GOLDEN=1`, then read what changed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from openai.types.chat import ChatCompletionChunk

from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman_edge.dialects.openai.answer import AnswerOptions
from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.render import ChatRenderer

FOLDER = Path(__file__).parent / "openai_stream"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))
EVENTS, WIRE = "--- events\n", "--- wire\n"


def read(path: Path) -> tuple[AnswerOptions, list[StreamRunResponse], str]:
    options, _, rest = path.read_text("utf-8").partition(EVENTS)
    events, _, wire = rest.partition(WIRE)
    batches = [Parse(line, StreamRunResponse()) for line in events.strip("\n").split("\n")]
    return AnswerOptions(**json.loads(options)), batches, wire


def render(options: AnswerOptions, batches: list[StreamRunResponse]) -> str:
    renderer = ChatRenderer(options)
    wire = b"".join(renderer.render(batch) for batch in batches)
    assert renderer.ended
    return (wire + (renderer.fail(renderer.failure) if renderer.failure else b"")).decode()


def frames_of(wire: str) -> list[Any]:
    frames = wire.split("\n\n")
    assert frames.pop() == ""
    assert frames.pop() == "data: [DONE]"
    assert all(frame.startswith("data: ") for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    options, batches, expected = read(path)
    wire = render(options, batches)
    if os.environ.get("DRAGOMAN_WRITE_GOLDEN"):
        path.write_text(path.read_text("utf-8").partition(WIRE)[0] + WIRE + wire, "utf-8")
    else:
        assert wire == expected


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_batches_do_not_matter(path: Path) -> None:
    options, batches, expected = read(path)
    alone = [StreamRunResponse(run_id=batch.run_id, events=[event]) for batch in batches for event in batch.events]
    assert render(options, alone) == expected
    together = StreamRunResponse(run_id=batches[0].run_id, events=[event for b in batches for event in b.events])
    assert render(options, [together]) == expected


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_chunks_are_what_is_documented_and_what_the_official_sdk_reads(path: Path) -> None:
    options, batches, _ = read(path)
    roles: dict[int, int] = {}
    finishes: dict[int, int] = {}
    for frame in frames_of(render(options, batches)):
        if "error" in frame:
            ANSWERS["Error"].validate_python(frame)
            continue
        ANSWERS["ChatCompletionChunk"].validate_python(frame)
        if not any(call.get("type") == "custom" for call in calls_of(frame)):  # the SDK's types do not know those
            ChatCompletionChunk.model_validate(frame)
        assert ("usage" in frame) == options.include_usage
        for choice in frame["choices"]:
            assert choice["index"] not in finishes, "nothing follows the finish"
            roles[choice["index"]] = roles.get(choice["index"], 0) + ("role" in choice["delta"])
            if choice["finish_reason"]:
                assert choice["delta"] == {}
                finishes[choice["index"]] = 1
    assert set(roles.values()) <= {1}


def calls_of(frame: Any) -> list[Any]:
    return [call for choice in frame["choices"] for call in choice["delta"].get("tool_calls", ())]


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 10
