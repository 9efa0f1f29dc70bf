"""Vectors as bytes: 32-bit floats, the least significant byte first, as they travel in most embedding APIs.

The contract's `Embedding` has just these bytes on the wire, so that no number is touched on the way.
"""

from __future__ import annotations

from dragoman.v1.embedding_service_pb2 import Embedding

FLOAT_BYTES = 4

_VALUES = bytes([Embedding.VALUES_FIELD_NUMBER << 3 | 2])
"""What precedes the packed values on the wire, before their length."""


def embedding_of(packed: bytes) -> Embedding:
    """Returns the vector of packed floats.

    Raises:
        ValueError: If there are none, or the last one is not whole.
    """
    size = len(packed)
    if not size or size % FLOAT_BYTES:
        raise ValueError(f"{size} bytes are no vector of {FLOAT_BYTES}-byte floats")
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return Embedding.FromString(_VALUES + length + packed)


def packed_floats(embedding: Embedding) -> bytes:
    """Returns the floats of a vector."""
    size = FLOAT_BYTES * len(embedding.values)
    return embedding.SerializeToString()[-size:] if size else b""
