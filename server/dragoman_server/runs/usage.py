"""Counting what a run consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.usage_pb2 import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.run_pb2 import ChatSpec, Run

CHARACTERS_PER_TOKEN = 4
"""For estimates: about what English text has with the tokenizers of today."""


def add_output(total: Usage, usage: Usage) -> None:
    """Adds the written tokens of one choice to a total whose read tokens are counted already."""
    total.output_tokens += usage.output_tokens
    total.estimated |= usage.estimated
    if usage.HasField("output_details"):
        details, more = total.output_details, usage.output_details
        details.reasoning_tokens += more.reasoning_tokens
        details.audio_tokens += more.audio_tokens
        details.accepted_prediction_tokens += more.accepted_prediction_tokens
        details.rejected_prediction_tokens += more.rejected_prediction_tokens
        details.text_tokens += more.text_tokens


def total_of_choices(usages: Iterable[Usage]) -> Usage:
    """Returns the usage of choices that share one prompt: the prompt counts once, the answers add up."""
    total = Usage()
    for number, usage in enumerate(usages):
        if number == 0:
            total.CopyFrom(usage)
        else:
            add_output(total, usage)
    return total


def estimate(spec: ChatSpec, record: Run) -> Usage:
    """Returns a guess from the lengths of the texts, for providers that report nothing."""
    asked = sum(len(part.text.text) for message in spec.messages for part in message.parts)
    said = 0
    for choice in record.choices:
        for part in choice.message.parts:
            said += len(part.text.text) + len(part.reasoning.text) + len(part.refusal.text)
            said += len(part.tool_call.name) + len(part.tool_call.arguments)
    return Usage(
        input_tokens=-(-asked // CHARACTERS_PER_TOKEN),
        output_tokens=-(-said // CHARACTERS_PER_TOKEN),
        estimated=True,
    )
