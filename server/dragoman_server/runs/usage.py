"""Counting what a run consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.usage_pb2 import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dragoman.v1.message_pb2 import Message
    from dragoman.v1.run_pb2 import ChatSpec, Run
    from dragoman_server.providers.base import PlainChat

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


def estimate(spec: ChatSpec, record: Run, told: Mapping[int, Usage]) -> Usage:
    """Returns the usage of a run: what its providers told, and a guess of the rest from the lengths of the texts.

    Args:
        spec: What was asked for.
        record: What was answered.
        told: What is known of choices, by their index. A count of 0 is not known.
    """
    total = Usage()
    prompt = next((usage for usage in told.values() if usage.input_tokens), None)
    if prompt is not None:
        total.CopyFrom(prompt)
        total.ClearField("output_tokens")
        total.ClearField("output_details")
    else:
        total.input_tokens = _tokens(sum(len(part.text.text) for message in spec.messages for part in message.parts))
        total.estimated = True
    said = {choice.index: _length(choice.message) for choice in record.choices}
    for index in said.keys() | told.keys():
        usage = told.get(index)
        if usage is not None and usage.output_tokens:
            add_output(total, usage)
        elif said.get(index):
            total.output_tokens += _tokens(said[index])
            total.estimated = True
    return total


def _length(message: Message) -> int:
    """Returns how many characters the model wrote."""
    return sum(
        len(part.text.text)
        + len(part.reasoning.text)
        + len(part.refusal.text)
        + len(part.tool_call.name)
        + len(part.tool_call.arguments)
        for part in message.parts
    )


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def plain_prompt_tokens(plain: PlainChat) -> int:
    """Returns what `prompt_tokens` says of a plain conversation."""
    size = plain.message_bytes or sum([message.ByteSize() for message in plain.spec.messages[:]])
    return len(plain.messages) * _TOKENS_PER_MESSAGE - -size // _BYTES_PER_TOKEN


def prompt_tokens(spec: ChatSpec, *, has_media: bool = True) -> int:
    """Returns how many tokens a prompt has at most, as far as that can be told without its model's tokenizer.

    It counts a token for every three bytes, where English has one for four characters and most scripts one for a
    character or less, and what wraps each message. Images, audio and files are counted at what common models ask at
    most.

    Args:
        spec: The request.
        has_media: Whether there may be any of those.
    """
    messages = spec.messages[:]
    tokens = len(messages) * _TOKENS_PER_MESSAGE
    size = sum([message.ByteSize() for message in messages])  # what is around the text is a few bytes
    if spec.context or spec.tools or spec.HasField("response_format"):
        size += sum(len(text.encode()) for text in spec.context)
        size += sum(tool.ByteSize() for tool in spec.tools) + spec.response_format.ByteSize()
    if has_media:
        for message in messages:
            for part in message.parts[:]:
                if (kind := part.WhichOneof("kind")) in _INLINE_TOKENS:
                    tokens += _INLINE_TOKENS[kind]
                    size -= part.ByteSize()
    return tokens + -(-size // _BYTES_PER_TOKEN)


_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8
_INLINE_TOKENS = {"image": 2_000, "audio": 10_000, "file": 50_000}
