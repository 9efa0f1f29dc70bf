"""Vectors without a model: every word points somewhere, by its hash, and a text points where its words do together.

The same text has the same vector everywhere and always, of length 1; texts that share words are near to each other.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from dragoman.v1.embedding_service_pb2 import Embedding

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMENSIONS = 64
"""Length of the vectors, unless another one is asked for."""
MAX_DIMENSIONS = 1024
"""Greatest length."""
MAX_WORDS = 8192
"""Words of the longest text: each costs time, during which nothing else happens."""


def vector_of(words: Sequence[str], dimensions: int) -> Embedding:
    """Returns the vector of a text; that of no words is the one of the empty word."""
    total: Sequence[int] = [0] * dimensions
    for word in words or ("",):
        total = [sum(pair) for pair in zip(total, _direction(word.lower(), dimensions), strict=True)]
    if not any(total):  # a few words may point against each other
        total = _direction(" ".join(words), dimensions)
    length = math.hypot(*total)
    return Embedding(values=[value / length for value in total])


def _direction(word: str, dimensions: int) -> Sequence[int]:
    """Returns small integers, odd ones, so that no direction is empty."""
    return [byte * 2 - 255 for byte in hashlib.shake_128(word.encode()).digest(dimensions)]
