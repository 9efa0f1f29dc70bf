"""From the usage object of the dialect to the contract's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.usage_pb2 import InputTokenDetails, OutputTokenDetails, Usage
from dragoman.wire import number_tag, sized, tag, varint
from dragoman_server.providers.usage import MOST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

_INPUT = number_tag(Usage, "input_tokens")
_OUTPUT = number_tag(Usage, "output_tokens")
_INPUT_DETAILS = tag(Usage, "input_details")
_OUTPUT_DETAILS = tag(Usage, "output_details")
_LOW = tuple(bytes((value,)) for value in range(0x100))
"""Single bytes."""

_INPUT_COUNTS = {
    name: number_tag(InputTokenDetails, name)
    for name in ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "text_tokens")
}
_OUTPUT_COUNTS = {
    name: number_tag(OutputTokenDetails, name)
    for name in (
        *("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"),
        "text_tokens",
    )
}


def usage_of(reported: dict[str, Any]) -> Usage:
    """Returns what the provider reported; what it left out or does not count in believable numbers is 0."""
    return Usage.FromString(encode_usage(reported))


def encode_usage(reported: dict[str, Any]) -> bytes:
    """Returns what the provider reported as the wire form of a usage; see `usage_of`."""
    asked, answered = reported.get("prompt_tokens"), reported.get("completion_tokens")
    written = reported.get("completion_tokens_details")
    if written:
        answered = _with_thoughts(reported, asked, answered, written)
    if type(asked) is int and type(answered) is int and 0 < asked < 0x4000 and 0 < answered < 0x4000:
        # The two counts of nearly every answer: one or two groups of seven bits each.
        usage = _INPUT + (_LOW[asked] if asked < 0x80 else _LOW[asked & 0x7F | 0x80] + _LOW[asked >> 7])
        usage += _OUTPUT + (_LOW[answered] if answered < 0x80 else _LOW[answered & 0x7F | 0x80] + _LOW[answered >> 7])
    else:
        usage = _count(_INPUT, asked) + _count(_OUTPUT, answered)
    read = reported.get("prompt_tokens_details")
    if read:
        usage += _details(_INPUT_DETAILS, read, _INPUT_COUNTS)
    cached = reported.get("prompt_cache_hit_tokens")  # DeepSeek's name for it
    if cached and not (isinstance(read, dict) and read.get("cached_tokens") is not None):
        usage += sized(_INPUT_DETAILS, _count(_INPUT_COUNTS["cached_tokens"], cached))
    if written:
        usage += _details(_OUTPUT_DETAILS, written, _OUTPUT_COUNTS)
    return usage


def _with_thoughts(reported: dict[str, Any], asked: Any, answered: Any, written: Any) -> Any:
    """Returns the tokens of the answer, thoughts included: xAI and Google count those apart, as the total tells."""
    thoughts = written.get("reasoning_tokens") if isinstance(written, dict) else None
    if not type(thoughts) is type(asked) is type(answered) is int:
        return answered
    return answered + thoughts if reported.get("total_tokens") == asked + answered + thoughts else answered


def _details(field: bytes, reported: Any, tags: Mapping[str, bytes]) -> bytes:
    """Returns the counts that have a name; details of nothing but zeros are there all the same."""
    if not isinstance(reported, dict):
        return b""
    known = False
    details = b""
    for name, value in reported.items():
        if value is not None and name in tags:
            known = True
            if value:
                details += _count(tags[name], value)
    if details:
        return sized(field, details)
    return field + b"\0" if known else b""


def _count(number: bytes, value: Any) -> bytes:
    return number + varint(value) if isinstance(value, int) and 0 < value < MOST_TOKENS else b""
