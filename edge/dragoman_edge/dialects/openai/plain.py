"""Reads the simplest requests, as most are: texts and a few numbers. One walk checks them and writes them for the core.

What it writes is the wire form of the contract: to merge that costs a fraction of filling nested messages in. It
accepts only what the schema accepts as it is, and leaves all else to the long way (`request`, `to_proto`), which knows
why something is wrong.
"""

from __future__ import annotations

from functools import lru_cache
from struct import pack
from typing import TYPE_CHECKING, Any

from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman.wire import fixed_tag, number_tag, sized, tag, varint
from dragoman_edge.dialects.openai.answer import AnswerOptions
from dragoman_edge.dialects.openai.messages import SHORT, text_head
from dragoman_edge.dialects.openai.schemas import Int32, Int64

if TYPE_CHECKING:
    from typing import TypeAlias

    PlainRequest: TypeAlias = tuple[bytes, AnswerOptions, bool]
    """A request: the wire form of its `ChatSpec`, what of it shapes its answer, and whether that is a stream."""

_HIGHEST = {"temperature": 2.0, "top_p": 1.0}
"""Of numbers from 0 on, fractions or not."""
_BETWEEN = {
    "max_tokens": (1, Int32, "max_output_tokens"),
    "max_completion_tokens": (1, Int32, "max_output_tokens"),
    "n": (1, 128, "choice_count"),
    "seed": (-Int64 - 1, Int64, "seed"),
}
"""Of whole numbers; and their names in the contract."""
_NUMBERS = _HIGHEST.keys() | _BETWEEN.keys()
_SPEAKERS = frozenset({"system", "developer", "user", "assistant"})
_MODEL = tag(ChatSpec, "model")
_SAMPLING = tag(ChatSpec, "sampling")
_UNSIGNED = 2**64 - 1
_LONGEST_MODEL = 256
"""Characters of the names that are remembered."""


@lru_cache(maxsize=256)
def _named(model: str) -> tuple[bytes, AnswerOptions]:
    """Returns what a model's name adds to a spec, and how the answer names it."""
    return (sized(_MODEL, model.encode()) if model else b""), AnswerOptions(model)


@lru_cache(maxsize=4096, typed=True)
def _number(name: str, value: float) -> bytes | None:
    """Returns what a number adds to the sampling parameters; None if it is not what it should be."""
    if (highest := _HIGHEST.get(name)) is not None:
        if not 0 <= value <= highest:
            return None
        return fixed_tag(Sampling, name) + pack("<d", value or 0.0)  # -0.0 and 0.0 are one to what is remembered
    if type(value) is not int:
        return None
    low, high, field = _BETWEEN[name]
    return number_tag(Sampling, field) + varint(value & _UNSIGNED) if low <= value <= high else None


@lru_cache(maxsize=4096)
def _head(role: str, size: int) -> bytes:
    """Returns what stands before a text of so many bytes.

    Raises:
        KeyError: If the role has other messages than such.
    """
    if role not in _SPEAKERS:
        raise KeyError(role)
    return text_head(role, size)


def read_plain(body: dict[str, Any]) -> PlainRequest | None:
    """Returns the request that a body is, if it is a plain one; None for all others."""
    model, streams, sampling = "", False, b""
    spec: list[bytes] | None = None
    for name, value in body.items():
        if name == "messages":
            spec = _write_messages(value)
        elif name == "model":
            if type(value) is not str or len(value) > _LONGEST_MODEL:
                return None
            model = value
        elif name == "stream":
            if type(value) is not bool:
                return None
            streams = value
        else:
            kind = type(value)
            if (kind is not int and kind is not float) or name not in _NUMBERS:
                return None
            number = _number(name, value)
            if number is None:
                return None
            sampling += number
    if not spec or ("max_completion_tokens" in body and "max_tokens" in body):
        return None
    wire, options = _named(model)
    spec.append(wire)
    if sampling:
        spec.append(sized(_SAMPLING, sampling))
    return b"".join(spec), options, streams


def _write_messages(messages: Any) -> list[bytes] | None:
    """Returns messages that have a role and a short text, and nothing else; None for others."""
    wire: list[bytes] = []
    try:
        for message in messages:
            content = message["content"]
            if len(message) != 2 or len(content) > SHORT:
                return None
            text = content.encode()
            wire += _head(message["role"], len(text)), text
    except (AttributeError, KeyError, TypeError):  # something is of another kind, or is not there
        return None
    return wire
