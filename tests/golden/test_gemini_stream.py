"""Golden transcripts of streams in the dialect of Gemini; the format is that of test_openai_stream.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse

from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman_edge.dialects.gemini.answer import AnswerOptions
from dragoman_edge.dialects.gemini.render import GenerateContentRenderer
from dragoman_edge.dialects.gemini.request import check_message

FOLDER = Path(__file__).parent / "gemini_stream"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))
EVENTS, WIRE = "--- events\n", "--- wire\n"

every_transcript = pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)


def read(path: Path) -> tuple[AnswerOptions, list[StreamRunResponse], str]:
    options, _, rest = path.read_bytes().decode().partition(EVENTS)
    events, _, wire = rest.partition(WIRE)
    batches = [Parse(line, StreamRunResponse()) for line in events.strip("\n").split("\n")]
    return AnswerOptions(**json.loads(options)), batches, wire


def render(options: AnswerOptions, batches: list[StreamRunResponse]) -> str:
    renderer = GenerateContentRenderer(options)
    wire = b"".join(renderer.render(batch) for batch in batches if not renderer.ended)
    assert renderer.ended
    return (wire + (renderer.fail(renderer.failure) if renderer.failure else b"")).decode()


def frames_of(wire: str, options: AnswerOptions) -> list[Any]:
    if options.array:
        elements: list[Any] = json.loads(wire)
        return elements
    frames = wire.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data: ") and len(frame.splitlines()) == 1 for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@every_transcript
def test_transcript(path: Path) -> None:
    options, batches, expected = read(path)
    wire = render(options, batches)
    if os.environ.get("DRAGOMAN_WRITE_GOLDEN"):
        path.write_bytes((path.read_bytes().decode().partition(WIRE)[0] + WIRE + wire).encode())
    else:
        assert wire == expected


@every_transcript
def test_batches_do_not_matter(path: Path) -> None:
    options, batches, expected = read(path)
    alone = [StreamRunResponse(run_id=batch.run_id, events=[event]) for batch in batches for event in batch.events]
    assert render(options, alone) == expected
    together = StreamRunResponse(run_id=batches[0].run_id, events=[event for b in batches for event in b.events])
    assert render(options, [together]) == expected


@every_transcript
def test_frames_are_what_is_documented(path: Path) -> None:
    options, batches, _ = read(path)
    *others, last = frames_of(render(options, batches), options)
    for frame in others:
        check_message(frame, "GenerateContentResponse")
        assert "usageMetadata" not in frame
        assert all("finishReason" not in candidate for candidate in frame["candidates"])
        assert all(candidate["content"]["parts"] for candidate in frame["candidates"])
    if "error" in last:
        check_message(last, "ErrorResponse")
        return
    check_message(last, "GenerateContentResponse")
    seen = {candidate["index"] for frame in others for candidate in frame["candidates"]}
    finished = [candidate["index"] for candidate in last.get("candidates", ()) if candidate["finishReason"]]
    assert seen <= set(finished)
    assert len(finished) == len(set(finished))


@every_transcript
def test_keep_alives_are_skipped(path: Path) -> None:
    options, batches, expected = read(path)
    renderer = GenerateContentRenderer(options)
    wire = b""
    for batch in batches:
        if not renderer.ended:
            wire += renderer.keep_alive + renderer.render(batch)
    text = (wire + (renderer.fail(renderer.failure) if renderer.failure else b"")).decode()
    events = text if options.array else "".join(f"{frame}\n\n" for frame in text.split("\n\n") if frame)
    assert frames_of(events, options) == frames_of(expected, options)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 20
