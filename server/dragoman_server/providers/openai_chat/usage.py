"""From the usage object of the dialect to the contract's."""

from __future__ import annotations

from typing import Any

from dragoman.v1.usage_pb2 import InputTokenDetails, OutputTokenDetails, Usage

_INPUT_DETAILS = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "text_tokens")
_OUTPUT_DETAILS = (
    *("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "text_tokens"),
)


def usage_of(reported: dict[str, Any]) -> Usage:
    """Returns what the provider reported; what it left out or does not count in whole tokens is 0."""
    usage = Usage(
        input_tokens=_count(reported.get("prompt_tokens")), output_tokens=_count(reported.get("completion_tokens"))
    )
    read = _details(reported.get("prompt_tokens_details"), _INPUT_DETAILS)
    if "cached_tokens" not in read and (cached := _count(reported.get("prompt_cache_hit_tokens"))):
        read["cached_tokens"] = cached  # DeepSeek's name for it
    if read:
        usage.input_details.CopyFrom(InputTokenDetails(**read))
    written = _details(reported.get("completion_tokens_details"), _OUTPUT_DETAILS)
    if written:
        usage.output_details.CopyFrom(OutputTokenDetails(**written))
    return usage


def _details(reported: Any, names: tuple[str, ...]) -> dict[str, int]:
    if not isinstance(reported, dict):
        return {}
    return {name: _count(reported[name]) for name in names if reported.get(name) is not None}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**63 else 0
