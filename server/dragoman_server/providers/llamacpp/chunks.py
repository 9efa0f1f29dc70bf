"""From llama.cpp's chunks and errors to events and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.run_service_pb2 import StreamRunResponse as EventBatch
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import (
    ContextLengthExceeded,
    DragomanError,
    InvalidRequest,
    ProviderError,
    Unavailable,
)
from dragoman_server.providers.llamacpp.json_schema import FIELD as SCHEMA_FIELD
from dragoman_server.providers.llamacpp.request import GRAMMAR_FIELD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.event_pb2 import TokenLogprob

_FINISH_REASONS = {"stop": FinishReason.FINISH_REASON_STOP, "length": FinishReason.FINISH_REASON_LENGTH}
_NO_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class ChunkReader:
    """Turns the chunks of one choice into events.

    Args:
        choice_index: Index that the events carry.
        top_logprobs: How many alternatives to report for each token.
    """

    def __init__(self, choice_index: int, top_logprobs: int) -> None:
        self._choice_index = choice_index
        self._top_logprobs = top_logprobs
        self.finished = False
        """Whether a finish reason came: an answer without one was cut off."""
        self.usage: Usage | None = None
        """What is known of the consumption before the end: the length of the prompt."""

    def read(self, chunk: Mapping[str, Any]) -> EventBatch | None:
        """Returns the events of a chunk, None if it has none.

        Raises:
            DragomanError: If the chunk is an error, or makes no sense.
        """
        if error := chunk.get("error"):
            raise failure_of(error)
        if (progress := chunk.get("prompt_progress")) and self.usage is None:
            self.usage = Usage(input_tokens=progress["total"])
        batch = EventBatch()
        for choice in chunk["choices"]:
            self._read_choice(choice, chunk, batch)
        if usage := chunk.get("usage"):
            counts = batch.events.add().usage_reported.last_call
            counts.input_tokens = usage["prompt_tokens"]
            counts.output_tokens = usage["completion_tokens"]
            counts.input_details.cached_tokens = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        return batch if batch.events else None

    def _read_choice(self, choice: Mapping[str, Any], chunk: Mapping[str, Any], batch: EventBatch) -> None:
        delta = choice["delta"]
        if thoughts := delta.get("reasoning_content"):
            batch.events.add().reasoning_delta.text = thoughts
            batch.events[-1].reasoning_delta.choice_index = self._choice_index
        if text := delta.get("content"):
            self._read_text(text, choice, batch.events.add())
        if delta.get("tool_calls"):
            raise ProviderError("the model calls a tool though none was offered", reason=Reason.PROVIDER_PROTOCOL)
        if name := choice.get("finish_reason"):
            if name not in _FINISH_REASONS:
                raise ProviderError(f"unknown finish reason {name!r}", reason=Reason.PROVIDER_PROTOCOL)
            finished = batch.events.add().choice_finished
            finished.choice_index = self._choice_index
            finished.finish_reason = _FINISH_REASONS[name]
            finished.stop_sequence = chunk.get("__verbose", {}).get("stopping_word", "")
            self.finished = True

    def _read_text(self, text: str, choice: Mapping[str, Any], event: RunEvent) -> None:
        # llama.cpp holds back incomplete characters, so that every text is whole. The log probability of a character
        # of several tokens is its last token's: those before are not reported.
        delta = event.text_delta
        delta.choice_index = self._choice_index
        delta.text = text
        for token in (choice.get("logprobs") or {}).get("content") or ():
            self._read_logprob(token, delta.logprobs.add())

    def _read_logprob(self, token: Mapping[str, Any], logprob: TokenLogprob) -> None:
        logprob.token = token["token"]
        logprob.logprob = _number(token["logprob"])
        logprob.token_bytes = bytes(token["bytes"])
        for alternative in token["top_logprobs"][: self._top_logprobs]:
            logprob.top.add(
                token=alternative["token"],
                logprob=_number(alternative["logprob"]),
                token_bytes=bytes(alternative["bytes"]),
            )


def _number(logprob: float | None) -> float:
    return _NO_LOGPROB if logprob is None else max(logprob, _NO_LOGPROB)


def failure_of(error: Mapping[str, Any]) -> DragomanError:
    """Returns what an error object of llama.cpp means."""
    message = str(error.get("message", "no message"))
    match error.get("type"):
        case "exceed_context_size_error":
            prompt, context = error.get("n_prompt_tokens", 0), error.get("n_ctx", 0)
            return ContextLengthExceeded(
                f"the prompt has {prompt} tokens, but the model's context holds {context}: shorten the messages",
                field="messages",
                metadata={"prompt_tokens": str(prompt), "context_tokens": str(context)},
            )
        case "invalid_request_error" if "grammar" in message:
            return InvalidRequest(f"llama.cpp cannot read the grammar: {message}", field=GRAMMAR_FIELD)
        case "invalid_request_error" | "not_supported_error":
            return InvalidRequest(f"llama.cpp refuses the request: {message}")
        case "unavailable_error":
            return Unavailable(message, reason=Reason.MODEL_NOT_READY)
    return ProviderError(f"llama.cpp failed: {message}", reason=Reason.PROVIDER_FAILED)


def refusal_of(error: ValueError, *, has_schema: bool) -> DragomanError:
    """Returns what it means that llama.cpp could not read a request: a template or a schema that it cannot apply."""
    message = str(error).rpartition("generation failed: ")[2]
    if has_schema and "schema" in message:
        return InvalidRequest(f"llama.cpp cannot convert the schema: {message}", field=SCHEMA_FIELD)
    return InvalidRequest(f"the model's chat template refuses the conversation: {message}", field="messages")
