from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.embedding_service_pb2 import Embedding
from dragoman.vectors import embedding_of, packed_floats

floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=300)


@given(floats)
def test_bytes_become_the_vector_and_back(values: list[float]) -> None:
    packed = struct.pack(f"<{len(values)}f", *values)
    assert list(embedding_of(packed).values) == values
    assert packed_floats(Embedding(values=values)) == packed


@pytest.mark.parametrize("count", [31, 32, 4095, 4096, 600_000])
def test_lengths_that_take_more_bytes_to_say(count: int) -> None:
    embedding = embedding_of(struct.pack("<f", 0.5) * count)
    assert len(embedding.values) == count
    assert len(packed_floats(embedding)) == 4 * count


@pytest.mark.parametrize("packed", [b"", b"\0", b"\0" * 7])
def test_what_is_no_vector(packed: bytes) -> None:
    with pytest.raises(ValueError, match="no vector"):
        embedding_of(packed)


def test_no_values_are_no_bytes() -> None:
    assert packed_floats(Embedding()) == b""
