"""Golden transcripts of streams in the dialect of OpenAI; `tests.support.transcripts` tells the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from dragoman_edge.dialects.openai.answer import AnswerOptions
from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.render import ChatRenderer
from tests.support.transcripts import Transcripts

TRANSCRIPTS = Transcripts(Path(__file__).parent / "openai_stream", AnswerOptions, ChatRenderer)

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
    TRANSCRIPTS.check_batches(path)


@every_transcript
def test_chunks_are_what_is_documented_and_what_the_official_sdk_reads(path: Path) -> None:
    options, batches, _ = TRANSCRIPTS.read(path)
    roles: dict[int, int] = {}
    finishes: dict[int, int] = {}
    for frame in frames_of(TRANSCRIPTS.render(options, batches)):
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
    assert len(TRANSCRIPTS.files) >= 20
