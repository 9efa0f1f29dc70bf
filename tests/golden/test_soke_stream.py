"""Golden transcripts of streams of Soke's chat API; `tests.support.transcripts` tells the format."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragoman_edge.dialects.soke.answer import AnswerOptions
from dragoman_edge.dialects.soke.render import StreamRenderer
from tests.support.soke import frames_of
from tests.support.transcripts import Transcripts

TRANSCRIPTS = Transcripts(Path(__file__).parent / "soke_stream", AnswerOptions, StreamRenderer)

every_transcript = pytest.mark.parametrize("path", TRANSCRIPTS.files, ids=lambda path: path.stem)


@every_transcript
def test_transcript(path: Path) -> None:
    TRANSCRIPTS.check(path)


@every_transcript
def test_batches_do_not_matter(path: Path) -> None:
    TRANSCRIPTS.check_batches(path)


@every_transcript
def test_keep_alives_are_comments(path: Path) -> None:
    options, batches, wire = TRANSCRIPTS.read(path)
    kept = TRANSCRIPTS.render(options, batches, keep_alives=True)
    assert kept.replace(": ping\n", "") == wire


@every_transcript
def test_the_order_of_frames(path: Path) -> None:
    options, batches, wire = TRANSCRIPTS.read(path)
    frames = frames_of(wire)
    said = "".join(event.text_delta.text or event.refusal_delta.text for batch in batches for event in batch.events)
    if options.chunks:
        choices = [frame["choices"][0] for frame in frames if frame.get("choices")]
        assert said.startswith("".join(choice["delta"].get("content", "") for choice in choices))
        if "error" not in frames[-1]:
            assert [choice["finish_reason"] is None for choice in choices] == [True] * (len(choices) - 1) + [False]
            assert choices[0]["delta"] == {"role": "assistant", "content": ""}
            (last,) = [frame for frame in frames if "data" in frame]
            assert last["choices"][0]["finish_reason"]
            assert set(last["data"]["services_used"]) == set(last["data"]["results"])
            assert last["conversation_id"] == options.conversation_id
        return
    kinds = [frame["type"] for frame in frames]
    assert kinds[-1] in ("done", "error")
    assert kinds[:-1] == sorted(kinds[:-1], key=["data", "content"].index)
    assert said.startswith("".join(frame["content"] for frame in frames if frame["type"] == "content"))
    if kinds[-1] == "done":
        services = dict.fromkeys(frame["service"] for frame in frames if frame["type"] == "data")
        assert frames[-1]["services_used"] == list(services)
        assert frames[-1]["conversation_id"] == options.conversation_id


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS.files) >= 20
