"""From the API's `usageMetadata` to the contract's usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.usage_pb2 import InputTokenDetails, OutputTokenDetails, Usage
from dragoman_server.providers.usage import MOST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

_INPUT_MODALITIES: Mapping[str, str] = {"TEXT": "text_tokens", "IMAGE": "image_tokens", "AUDIO": "audio_tokens"}
_OUTPUT_MODALITIES: Mapping[str, str] = {"TEXT": "text_tokens", "AUDIO": "audio_tokens"}


def usage_of(reported: dict[str, Any]) -> Usage:
    """Returns what the provider reported; what it left out is 0.

    The API counts results of its own tools apart from the prompt, and thoughts apart from the answer.
    """
    thoughts = _count(reported.get("thoughtsTokenCount"))
    tier = reported.get("serviceTier")
    usage = Usage(
        input_tokens=_count(reported.get("promptTokenCount")) + _count(reported.get("toolUsePromptTokenCount")),
        output_tokens=_count(reported.get("candidatesTokenCount")) + thoughts,
        service_tier=tier if isinstance(tier, str) else "",
    )
    read = _by_modality(reported.get("promptTokensDetails"), _INPUT_MODALITIES)
    for name, count in _by_modality(reported.get("toolUsePromptTokensDetails"), _INPUT_MODALITIES).items():
        read[name] = read.get(name, 0) + count
    if cached := _count(reported.get("cachedContentTokenCount")):
        read["cached_tokens"] = cached
    if read:
        usage.input_details.CopyFrom(InputTokenDetails(**read))
    written = _by_modality(reported.get("candidatesTokensDetails"), _OUTPUT_MODALITIES)
    if thoughts:
        written["reasoning_tokens"] = thoughts
    if written:
        usage.output_details.CopyFrom(OutputTokenDetails(**written))
    return usage


def _by_modality(reported: Any, names: Mapping[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in reported if isinstance(reported, list) else ():
        if isinstance(entry, dict) and isinstance(modality := entry.get("modality"), str) and modality in names:
            name = names[modality]
            counts[name] = counts.get(name, 0) + _count(entry.get("tokenCount"))
    return counts


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0
