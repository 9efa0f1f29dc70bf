"""From the usage object of the dialect to the contract's."""

from __future__ import annotations

from typing import Any

from dragoman.v1.usage_pb2 import Usage
from dragoman_server.providers.usage import MOST_TOKENS

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def merge(known: dict[str, Any], reported: Any) -> None:
    """Takes a report over into what is known: counts only grow, as a stream reports sums."""
    if not isinstance(reported, dict):
        return
    for name in _COUNTS:
        if name in reported:
            known[name] = max(_count(reported[name]), known.get(name, 0))
    details = reported.get("output_tokens_details")
    if isinstance(details, dict):
        known["thinking_tokens"] = max(_count(details.get("thinking_tokens")), known.get("thinking_tokens", 0))
    if isinstance(tier := reported.get("service_tier"), str):
        known["service_tier"] = tier


def usage_of(known: dict[str, Any]) -> Usage:
    """Returns what the provider reported; it counts what its cache read and wrote apart from the rest of the prompt."""
    cached = known.get("cache_read_input_tokens", 0)
    written = known.get("cache_creation_input_tokens", 0)
    usage = Usage(
        input_tokens=known.get("input_tokens", 0) + cached + written,
        output_tokens=known.get("output_tokens", 0),
        service_tier=known.get("service_tier", ""),
    )
    if cached or written:
        usage.input_details.cached_tokens = cached
        usage.input_details.cache_write_tokens = written
    if "thinking_tokens" in known:
        usage.output_details.reasoning_tokens = known["thinking_tokens"]
    return usage


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0
