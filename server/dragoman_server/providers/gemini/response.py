"""From the JSON of a `generateContent` answer, whole or in chunks, to events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason, TokenLogprob, TopLogprob
from dragoman.v1.message_pb2 import TOOL_KIND_FUNCTION
from dragoman_server.errors import ProviderError
from dragoman_server.ids import new_id
from dragoman_server.providers.failures import broken, failure_of_error, sanitized
from dragoman_server.providers.gemini.citations import grounding_citations, recited
from dragoman_server.providers.gemini.usage import usage_of
from dragoman_server.providers.json_values import answer_value, bytes_of
from dragoman_server.providers.sse import NamedEvent, SseDecoder, SseFrameTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dragoman.v1.message_pb2 import Citation
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import EventBatch

_STOP = FinishReason.FINISH_REASON_STOP
_LENGTH = FinishReason.FINISH_REASON_LENGTH
_TOOL_CALLS = FinishReason.FINISH_REASON_TOOL_CALLS

_FINISH: Mapping[str, FinishReason] = {
    "STOP": _STOP,
    "MAX_TOKENS": _LENGTH,
    "CONTINUATION": _LENGTH,
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION"),
        ),
        FinishReason.FINISH_REASON_CONTENT_FILTER,
    ),
}
_FAILED_FINISH: Mapping[str, tuple[Reason, bool]] = {
    "MISSING_THOUGHT_SIGNATURE": (Reason.PROVIDER_REJECTED, False),
    "PUP_LIMITED_DISABLED": (Reason.PROVIDER_AUTH, False),
}
"""Finish reasons that say that the answer is not finished, with the reason, and whether another try may help. Those not
listed are mishaps of the model, for example MALFORMED_FUNCTION_CALL."""

_METADATA = frozenset({"thought", "thoughtSignature", "partMetadata", "videoMetadata", "mediaResolution"})
"""Keys of a part that are not its content."""


class ResponseReader:
    """Reads one answer, for one choice, and appends its events to batches.

    The finish reason, the usage and the citations are held back to the end: the API repeats them in every chunk, and
    the last ones count.

    Args:
        choice_index: The index that the events carry.
        mark: The provider's mark on its signatures.
    """

    def __init__(self, choice_index: int, mark: bytes) -> None:
        self._choice_index = choice_index
        self._mark = mark
        self._decoder = SseDecoder()
        self._texts: list[str] = []
        self._call_ids: list[str] = []
        self._finish: FinishReason | None = None
        self._usage: dict[str, Any] | None = None
        self._grounding: dict[str, Any] | None = None
        self._recitations: list[dict[str, Any]] = []
        self.done = False
        """Whether the stream said that it is complete. The API does not: its streams just end."""

    @property
    def usage(self) -> Usage | None:
        """What the provider has told of its consumption; None if nothing."""
        return None if self._usage is None else usage_of(self._usage)

    def read_text(self, data: bytes) -> str | None:
        """Returns None: `read_stream` is the one way."""
        return None

    def read_stream(self, data: bytes, batch: EventBatch) -> bool:
        """Reads the next bytes of a stream; returns whether they brought more than comments.

        Raises:
            ProviderError: If the provider reports a failure, or its bytes make no sense. The batch keeps the rest.
        """
        try:
            frames = self._decoder.feed(data)
        except SseFrameTooLarge as error:
            raise broken(str(error)) from error
        for frame in frames:
            self._read_frame(frame, batch)
        return bool(frames)

    def end_stream(self, batch: EventBatch) -> None:
        """Takes the end of the stream, and appends what was held back.

        Raises:
            ProviderError: If the answer is not finished.
        """
        for frame in self._decoder.finish():
            self._read_frame(frame, batch)
        self._end(batch)

    def read_plain(self, data: bytes) -> None:
        """Reads nothing: every whole answer is read as a batch."""

    def read_whole(self, data: bytes, batch: EventBatch) -> None:
        """Reads an answer that came in one piece: one object, or the chunks of a stream as a list.

        Raises:
            ProviderError: If the provider reports a failure, or the answer makes no sense or is not finished.
        """
        answer = answer_value(data)
        for chunk in answer if isinstance(answer, list) else (answer,):
            self._read_chunk(chunk, batch)
        self._end(batch)

    # Chunks

    def _read_frame(self, frame: bytes | NamedEvent, batch: EventBatch) -> None:
        if isinstance(frame, NamedEvent):
            frame = frame.data
        if frame and frame != b"[DONE]":  # gateways in between add this end
            self._read_chunk(answer_value(frame), batch)

    def _read_chunk(self, chunk: Any, batch: EventBatch) -> None:
        if type(chunk) is list and len(chunk) == 1:
            chunk = chunk[0]
        if type(chunk) is not dict:
            raise broken("a chunk is not an object")
        if chunk.get("error"):
            raise failure_of_error(chunk["error"])
        usage = chunk.get("usageMetadata")
        if usage and type(usage) is dict and "promptTokenCount" in usage:  # without, it tells of the cache only
            self._usage = usage  # nearly every chunk has one, the last is the sum
        candidates = chunk.get("candidates")
        if candidates:
            if type(candidates) is not list or type(candidates[0]) is not dict:
                raise broken("the candidates are not a list of objects")
            self._read_candidate(candidates[0], batch)  # one was asked for
        elif feedback := chunk.get("promptFeedback"):
            _refuse_blocked(feedback)

    def _read_candidate(self, candidate: dict[str, Any], batch: EventBatch) -> None:
        logprobs = candidate.get("logprobsResult")
        first = len(batch.events)
        content = candidate.get("content")
        if content:
            parts = content.get("parts") if type(content) is dict else content
            if type(parts) is list:
                for part in parts:
                    self._read_part(part, batch)
            elif parts is not None:
                raise broken("the parts are not a list")
        if logprobs:
            self._add_logprobs(logprobs, batch, first)
        if grounding := candidate.get("groundingMetadata"):
            self._grounding = grounding if isinstance(grounding, dict) else None
        if isinstance(recitation := candidate.get("citationMetadata"), dict):
            self._recitations.append(recitation)
        if reason := candidate.get("finishReason"):
            self._read_finish(reason, candidate)

    def _read_part(self, part: Any, batch: EventBatch) -> None:
        if type(part) is not dict:
            raise broken("a part is not an object")
        text = part.get("text")
        if type(text) is str:
            if part.get("thought"):
                self._add_thought(text, part.get("thoughtSignature"), batch)
                return
            if text:
                self._texts.append(text)
                event = batch.events.add().text_delta
                event.text = text
                if self._choice_index:
                    event.choice_index = self._choice_index
            if len(part) > 1 and (signature := part.get("thoughtSignature")):
                self._add_thought("", signature, batch)
        elif isinstance(call := part.get("functionCall"), dict):
            self._add_call(call, part.get("thoughtSignature"), batch)
        elif isinstance(blob := part.get("inlineData"), dict) and str(blob.get("mimeType")).startswith("audio/"):
            sound = batch.events.add().audio_delta
            sound.choice_index = self._choice_index
            sound.data = bytes_of(blob.get("data"), "sound")
        elif unknown := part.keys() - _METADATA:
            raise ProviderError(
                f"the answer has a part that cannot be handed on: {sanitized(', '.join(sorted(unknown)))}",
                reason=Reason.PROVIDER_PROTOCOL,
                retryable=False,
            )
        elif signature := part.get("thoughtSignature"):
            self._add_thought("", signature, batch)

    def _add_thought(self, text: str, signature: Any, batch: EventBatch) -> None:
        if not text and not signature:
            return
        event = batch.events.add().reasoning_delta
        event.choice_index = self._choice_index
        event.text = text
        if signature:
            event.signature = self._mark + bytes_of(signature, "signature")

    def _add_call(self, call: dict[str, Any], signature: Any, batch: EventBatch) -> None:
        """Adds a call, which always comes whole."""
        name, arguments, call_id = call.get("name"), call.get("args"), call.get("id")
        if not isinstance(name, str) or not name:
            raise broken("a function call has no name")
        if not isinstance(call_id, str) or not call_id or call_id in self._call_ids:
            call_id = new_id("call")
        call_index = len(self._call_ids)
        self._call_ids.append(call_id)
        started = batch.events.add().tool_call_started
        started.choice_index = self._choice_index
        started.call_index = call_index
        started.call_id = call_id
        started.name = name
        started.tool_kind = TOOL_KIND_FUNCTION
        if signature:
            started.signature = self._mark + bytes_of(signature, "signature")
        delta = batch.events.add().tool_call_arguments_delta
        delta.choice_index = self._choice_index
        delta.call_index = call_index
        delta.arguments = orjson.dumps(arguments or {}).decode()
        completed = batch.events.add().tool_call_completed
        completed.choice_index = self._choice_index
        completed.call_index = call_index

    def _add_logprobs(self, logprobs: Any, batch: EventBatch, first: int) -> None:
        """Adds log probabilities to the first text of their chunk."""
        tokens = list(_logprobs(logprobs))
        if not tokens:
            return
        event = next((event.text_delta for event in batch.events[first:] if event.HasField("text_delta")), None)
        if event is None:
            event = batch.events.add().text_delta
            event.choice_index = self._choice_index
        event.logprobs.extend(tokens)

    # The end

    def _read_finish(self, reason: Any, candidate: dict[str, Any]) -> None:
        word = reason if isinstance(reason, str) else ""
        finish = _FINISH.get(word)
        if finish is None:
            why, retryable = _FAILED_FINISH.get(word, (Reason.PROVIDER_FAILED, True))
            told = candidate.get("finishMessage")
            raise ProviderError(
                f"the provider ended the answer with {sanitized(word)!r}"
                + (f": {sanitized(told)}" if isinstance(told, str) and told else ""),
                reason=why,
                metadata={"finish_reason": sanitized(word)},
                retryable=retryable,
            )
        self._finish = finish

    def _end(self, batch: EventBatch) -> None:
        if self._finish is None:
            raise broken("it ended without a finish reason")
        if citations := self._citations():
            delta = batch.events.add().text_delta
            delta.choice_index = self._choice_index
            delta.citations.extend(citations)
        finished = batch.events.add().choice_finished
        finished.choice_index = self._choice_index
        finished.finish_reason = _TOOL_CALLS if self._finish == _STOP and self._call_ids else self._finish
        if (usage := self.usage) is not None:
            batch.events.add().usage_reported.last_call.CopyFrom(usage)

    def _citations(self) -> list[Citation]:
        if self._grounding is None and not self._recitations:
            return []
        text = "".join(self._texts)
        found = [] if self._grounding is None else grounding_citations(self._grounding, text)
        for metadata in self._recitations:
            found += [citation for citation in recited(metadata, text) if citation not in found]
        return found


def _refuse_blocked(feedback: Any) -> None:
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if not isinstance(reason, str) or not reason:
        return
    told = feedback.get("blockReasonMessage")
    raise ProviderError(
        f"the provider's filter refused the prompt: {sanitized(told if isinstance(told, str) and told else reason)}",
        reason=Reason.CONTENT_FILTERED,
        metadata={"block_reason": sanitized(reason)},
        retryable=False,
    )


def _logprobs(reported: Any) -> Iterator[TokenLogprob]:
    chosen = reported.get("chosenCandidates") if isinstance(reported, dict) else None
    likeliest = reported.get("topCandidates") if isinstance(reported, dict) else None
    if not isinstance(chosen, list) or not isinstance(likeliest, list | None):
        raise broken("the log probabilities are not lists")
    for at, entry in enumerate(chosen):
        if not isinstance(entry, dict):
            raise broken("a log probability is not an object")
        token, logprob, token_bytes = _token(entry)
        top = likeliest[at] if likeliest and at < len(likeliest) else None
        yield TokenLogprob(token=token, logprob=logprob, token_bytes=token_bytes, top=_top(top))


def _top(reported: Any) -> Iterable[TopLogprob]:
    candidates = reported.get("candidates") if isinstance(reported, dict) else None
    for entry in candidates if isinstance(candidates, list) else ():
        if isinstance(entry, dict):
            token, logprob, token_bytes = _token(entry)
            yield TopLogprob(token=token, logprob=logprob, token_bytes=token_bytes)


def _token(entry: dict[str, Any]) -> tuple[str, float, bytes]:
    """Returns a token, its log probability (0 is left out in this JSON), and its bytes, as far as the text tells."""
    token = entry.get("token")
    token = token if isinstance(token, str) else ""
    logprob = entry.get("logProbability", 0)
    if not isinstance(logprob, int | float):
        raise broken("a log probability is not a number")
    return token, float(logprob), b"" if "\ufffd" in token else token.encode()
