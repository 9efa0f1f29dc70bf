from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.providers.sse import NamedEvent, SseDecoder, SseFrameTooLarge
from tests.support.upstream_server import cut

BOM = b"\xef\xbb\xbf"


def decode(*pieces: bytes, max_frame_bytes: int = 1 << 20) -> list[tuple[bytes, bytes]]:
    decoder = SseDecoder(max_frame_bytes)
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    return [frame if isinstance(frame, NamedEvent) else (b"", frame) for frame in frames]


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The algorithm of the HTML standard, line by line over the whole stream."""
    text = stream.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    frames = []
    name, data = b"", list[bytes]()
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                frames.append((name, b"\n".join(data)))
            name, data = b"", []
        elif not line.startswith(b":"):
            key, _, value = line.partition(b":")
            value = value[1:] if value[:1] == b" " else value
            if key == b"data":
                data.append(value)
            elif key == b"event":
                name = value
    return frames


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data:a\n\n", [(b"", b"a")]),
        (b"data:  a \n\n", [(b"", b" a ")]),
        (b"data\n\n", [(b"", b"")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [(b"", b"a"), (b"", b"b"), (b"", b"c")]),
        (b": ping\n\ndata: a\n\n", [(b"", b"a")]),
        (b": ping\ndata: a\n\n", [(b"", b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (b"", b"b")]),
        (b"event: lonely\n\ndata: b\n\n", [(b"", b"b")]),
        (b"id: 1\nretry: 3\ndata: a\nunknown: x\n\n", [(b"", b"a")]),
        (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
        (BOM + b"data: a\n\n", [(b"", b"a")]),
        (b"data: unfinished\n", []),
        (b"database: a\n\n", []),
    ],
)
def test_the_standard_in_all_pieces(stream: bytes, frames: list[tuple[bytes, bytes]]) -> None:
    assert decode(stream) == frames
    assert reference(stream) == frames
    for size in (1, 2, 3):
        assert decode(*cut(stream, size)) == frames


ALPHABET = st.sampled_from(
    [
        b"data",
        b"event",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        "é🐪".encode(),
        b"{",
        BOM,
        b"data: y\n\n",
        b"",
    ]
)


@given(st.lists(ALPHABET, max_size=30).map(b"".join), st.data())
def test_any_chopping_gives_the_same_frames(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    bounds = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert decode(*pieces) == reference(stream)


def test_an_event_that_only_the_end_of_the_stream_ends() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\n\ndata: b\nda") == [b"a"]
    assert decoder.feed(b"ta: c") == []
    assert decoder.finish() == [b"b\nc"]
    assert decoder.finish() == []


@pytest.mark.parametrize("piece", [b"x" * 10, b"data: x\n", b"\ndata:"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    decoder = SseDecoder(max_frame_bytes=1000)
    with pytest.raises(SseFrameTooLarge):
        list(map(decoder.feed, [b"y" + piece] * 1000))


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    decoder = SseDecoder(max_frame_bytes=100)
    for _ in range(100):
        assert decoder.feed(b"data: " + b"x" * 50) == []
        assert decoder.feed(b"\n") == []
        assert decoder.feed(b"\n") == [b"x" * 50]


@given(
    st.lists(
        st.sampled_from([b"data: a", b"data", b": c", b"event: e", b"\n", b"\n\n", b"\r", b"\r\n", BOM]), max_size=12
    )
)
def test_between_events_nothing_of_the_past_counts(pieces: list[bytes]) -> None:
    decoder = SseDecoder()
    for piece in pieces:
        decoder.feed(piece)
    rest = b"data: x\n\nevent: y\ndata: z\n\n"
    if decoder.between:
        assert decoder.feed(rest) == [b"x", NamedEvent(b"y", b"z")]


def test_the_end_of_an_event_is_noticed() -> None:
    decoder = SseDecoder()
    seen = []
    for piece in (b"data: a\n\n", b"data: b\n", b"\n", b"data: c\n\ndata: d", b"\n\n", b"data: e\r\n\r\n"):
        decoder.feed(piece)
        seen.append(decoder.between)
    assert seen[0]
    assert seen[1] is False
    assert seen[3] is False
