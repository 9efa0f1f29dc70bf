from __future__ import annotations

import asyncio
import string
from collections import Counter
from itertools import pairwise

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.tunnel.framing import MESSAGE_BYTES, InvalidMetadata, Outbox, add_metadata, read_metadata
from dragoman.v1.tunnel_service_pb2 import OpenCall

KEYS = st.text(string.ascii_lowercase + string.digits + "_-.", min_size=1, max_size=6).map("k".__add__)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
ENTRIES = st.one_of(
    st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), PRINTABLE),
    st.tuples(KEYS.map("{}-bin".format), st.binary(max_size=20)),
)


@given(st.lists(ENTRIES, max_size=12))
def test_legal_metadata_comes_back(metadata: list[tuple[str, str | bytes]]) -> None:
    opening = OpenCall()
    add_metadata(opening.metadata, metadata)
    assert read_metadata(OpenCall.FromString(opening.SerializeToString()).metadata) == tuple(metadata)


@pytest.mark.parametrize("entry", [("Upper", "v"), ("", "v"), ("a b", "v"), ("é", "v"), ("a", "é"), ("a", "x\ny")])
def test_what_gRPC_cannot_carry_is_refused(entry: tuple[str, str]) -> None:
    with pytest.raises(InvalidMetadata):
        add_metadata(OpenCall().metadata, [entry])
    assert issubclass(InvalidMetadata, grpc.aio.InternalError)


class Call:
    """A source with some frames of one size."""

    def __init__(self, outbox: Outbox, name: str, frames: int, size: int) -> None:
        self.queued = False
        self.outbox, self.name, self.left, self.size = outbox, name, frames, size
        outbox.put(self)
        outbox.put(self)  # which changes nothing

    def fill(self, frames: list[str]) -> int:
        self.left -= 1
        frames.append(self.name)
        if self.left:
            self.outbox.put(self)
        return self.size


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 40), st.integers(1, 20_000)), min_size=1))
def test_every_call_gets_its_turn(calls: dict[str, tuple[int, int]]) -> None:
    async def drain() -> list[list[str]]:
        outbox = Outbox()
        for name, (frames, size) in calls.items():
            Call(outbox, name, frames, size)
        outbox.close()
        messages: list[list[str]] = []
        while await outbox.wait():
            messages.append([])
            outbox.take(messages[-1])
        return messages

    messages = asyncio.run(drain())
    sizes = {name: size for name, (_, size) in calls.items()}
    for message in messages:
        assert sum(sizes[name] for name in message[:-1]) < MESSAGE_BYTES
    sent = [name for message in messages for name in message]
    assert Counter(sent) == {name: frames for name, (frames, _) in calls.items()}
    for name, (frames, _) in calls.items():  # between two frames of a call, no other has more than one
        turns = [number for number, sender in enumerate(sent) if sender == name]
        assert len(turns) == frames
        for first, second in pairwise(turns):
            assert max(Counter(sent[first + 1 : second]).values(), default=1) == 1


async def test_waiting_ends_with_news_or_the_end() -> None:
    outbox = Outbox()
    waiting = asyncio.ensure_future(outbox.wait())
    await asyncio.sleep(0)
    Call(outbox, "a", 1, 1)
    assert await waiting
    outbox.take([])
    waiting = asyncio.ensure_future(outbox.wait())
    await asyncio.sleep(0)
    outbox.close()
    assert not await waiting
