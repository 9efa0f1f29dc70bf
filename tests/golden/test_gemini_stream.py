"""Golden transcripts of streams in the dialect of Gemini; `tests.support.transcripts` tells the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dragoman_edge.dialects.gemini.answer import AnswerOptions
from dragoman_edge.dialects.gemini.render import GenerateContentRenderer
from dragoman_edge.dialects.gemini.request import check_message
from tests.support.transcripts import Transcripts

TRANSCRIPTS = Transcripts(Path(__file__).parent / "gemini_stream", AnswerOptions, GenerateContentRenderer)

every_transcript = pytest.mark.parametrize("path", TRANSCRIPTS.files, ids=lambda path: path.stem)


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
    TRANSCRIPTS.check(path)


@every_transcript
def test_batches_do_not_matter(path: Path) -> None:
    TRANSCRIPTS.check_batches(path)


@every_transcript
def test_frames_are_what_is_documented(path: Path) -> None:
    options, batches, _ = TRANSCRIPTS.read(path)
    *others, last = frames_of(TRANSCRIPTS.render(options, batches), options)
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
    options, batches, expected = TRANSCRIPTS.read(path)
    text = TRANSCRIPTS.render(options, batches, keep_alives=True)
    events = text if options.array else "".join(f"{frame}\n\n" for frame in text.split("\n\n") if frame)
    assert frames_of(events, options) == frames_of(expected, options)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS.files) >= 20
