"""Golden transcripts of streams of Alchemyst's chat API; `tests.support.transcripts` tells the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman_edge.dialects.alchemyst.answer import AnswerOptions
from dragoman_edge.dialects.alchemyst.render import ChatStreamRenderer
from tests.support.transcripts import Transcripts

TRANSCRIPTS = Transcripts(Path(__file__).parent / "alchemyst_stream", AnswerOptions, ChatStreamRenderer)

every_transcript = pytest.mark.parametrize("path", TRANSCRIPTS.files, ids=lambda path: path.stem)


def frames_of(wire: str) -> list[Any]:
    frames = wire.split("\n\n")
    assert frames.pop() == ""
    assert frames.pop() == "data: [DONE]"
    assert all(frame.startswith("data: ") and len(frame.splitlines()) == 1 for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@every_transcript
def test_transcript(path: Path) -> None:
    TRANSCRIPTS.check(path)


@every_transcript
def test_batches_do_not_matter(path: Path) -> None:
    options, batches, expected = TRANSCRIPTS.read(path)
    events = [event for batch in batches for event in batch.events]
    alone = [StreamRunResponse(run_id=batches[0].run_id, events=[event]) for event in events]
    assert TRANSCRIPTS.render(options, alone) == expected
    assert TRANSCRIPTS.render(options, [StreamRunResponse(run_id=batches[0].run_id, events=events)]) == expected


@every_transcript
def test_the_answer_comes_once_and_last(path: Path) -> None:
    """However a client reads the stream: the last content, all final responses joined, or only the type it knows."""
    options, batches, wire = TRANSCRIPTS.read(path)
    *before, last = frames_of(wire)
    said = "".join(event.text_delta.text or event.refusal_delta.text for batch in batches for event in batch.events)
    if "error" in last:
        assert last["content"] is None
        assert all(frame["type"] in ("thinking_update", "response_delta") for frame in before)
        return
    assert last["type"] == "metadata"
    assert last["content"]["chatId"] == options.chat_id
    assert [frame["content"] for frame in before if frame["type"] == "final_response"] == [said]
    assert [frame["content"] for frame in before if isinstance(frame.get("content"), str)][-1] == said
    deltas = [frame["delta"] for frame in before if frame["type"] == "response_delta"]
    assert "".join(deltas) == (said if options.deltas else "")


def test_keep_alives_are_comments() -> None:
    options, batches, wire = TRANSCRIPTS.read(TRANSCRIPTS.files[0])
    kept = TRANSCRIPTS.render(options, batches, keep_alives=True)
    assert kept.replace(": ping\n", "") == wire


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS.files) >= 8
