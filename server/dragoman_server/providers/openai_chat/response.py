"""From the JSON of a chat completion, whole or in chunks, to events."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.event_pb2 import FinishReason, TokenLogprob, TopLogprob
from dragoman_server.providers.failures import broken, failure_of_error
from dragoman_server.providers.json_values import answer_object, string
from dragoman_server.providers.openai_chat.template import TextTemplate
from dragoman_server.providers.openai_chat.tool_calls import ToolCalls
from dragoman_server.providers.openai_chat.usage import encode_usage, usage_of
from dragoman_server.providers.sse import NamedEvent, SseDecoder, SseFrameTooLarge
from dragoman_server.providers.wire import FINISHED, text_event, usage_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dragoman.v1.event_pb2 import RefusalDelta, TextDelta
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.errors import ProviderError
    from dragoman_server.providers.base import EventBatch

_STOP = FinishReason.FINISH_REASON_STOP
_LENGTH = FinishReason.FINISH_REASON_LENGTH
_TOOL_CALLS = FinishReason.FINISH_REASON_TOOL_CALLS
_CONTENT_FILTER = FinishReason.FINISH_REASON_CONTENT_FILTER

_FINISH: Mapping[str, FinishReason] = {
    "stop": _STOP,
    "length": _LENGTH,
    "tool_calls": _TOOL_CALLS,
    "content_filter": _CONTENT_FILTER,
    "function_call": _TOOL_CALLS,
    # Words of servers that speak the dialect loosely.
    "eos": _STOP,
    "eos_token": _STOP,
    "end_turn": _STOP,
    "stop_sequence": _STOP,
    "max_tokens": _LENGTH,
    "model_length": _LENGTH,
    "tool_use": _TOOL_CALLS,
    "safety": _CONTENT_FILTER,
    "sensitive": _CONTENT_FILTER,
    "recitation": _CONTENT_FILTER,
}
_FAILED_FINISH = frozenset({"error", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource"})
"""Finish reasons that say that the answer is not finished."""

_UNLIKELY = -9999.0
"""What the dialect writes for a probability too small to tell."""


class ResponseReader:
    """Reads one answer, for one choice, and appends its events to batches.

    The finish reason and the usage are held back to the end: servers differ in what they send after what, and the
    contract has them last.

    Args:
        choice_index: The index that the events carry.
        mark: The provider's mark on its signatures; empty leaves them out.
    """

    done = False
    """Whether the stream said that it is complete."""

    # Most answers never need more than these.
    _tool_calls: ToolCalls | None = None
    _finish: FinishReason | None = None
    _stop_sequence = ""
    _usage: dict[str, Any] | None = None
    _audio_rest = ""
    _unread: dict[str, Any] | None = None

    _template: TextTemplate  # of a stream

    def __init__(self, choice_index: int, mark: bytes) -> None:
        self._choice_index = choice_index
        self._mark = mark
        self._decoder: SseDecoder | None = None  # until the answer turns out to be a stream

    @property
    def usage(self) -> Usage | None:
        """What the provider has told of its consumption; None if nothing."""
        return None if self._usage is None else usage_of(self._usage)

    def read_text(self, data: bytes) -> str | None:
        """Reads bytes that are one whole piece of text, as nearly every read of a stream is; None for any others."""
        decoder = self._decoder
        if decoder is not None and decoder.between and not self._choice_index:
            return self._template.match_event(data) or None
        return None

    def read_stream(self, data: bytes, batch: EventBatch) -> bool:
        """Reads the next bytes of a stream; returns whether they brought more than comments.

        Raises:
            ProviderError: If the provider reports a failure, or its bytes make no sense. The batch keeps the rest.
        """
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = SseDecoder()
            self._template = TextTemplate()
        try:
            frames = decoder.feed(data)
        except SseFrameTooLarge as error:
            raise broken(str(error)) from error
        match = self._template.match
        for frame in frames:
            if self.done:
                break
            text = match(frame) if type(frame) is bytes else None
            if text is None:
                self._read_frame(frame, batch)
            elif text:
                self._add_text(text, batch)
        return bool(frames)

    def end_stream(self, batch: EventBatch) -> None:
        """Takes the end of the stream, and appends what was held back.

        Raises:
            ProviderError: If the answer is not finished.
        """
        if not self.done and self._decoder is not None:
            for frame in self._decoder.finish():
                self._read_frame(frame, batch)
        self._end(batch)

    def read_whole(self, data: bytes, batch: EventBatch) -> None:
        """Reads an answer that came in one piece.

        Raises:
            ProviderError: If the provider reports a failure, or the answer makes no sense or is not finished.
        """
        answer, self._unread = self._unread or answer_object(data), None
        self._read_answer(answer, batch)

    def read_plain(self, data: bytes) -> tuple[str, FinishReason, bytes | None] | None:
        """Returns a whole answer for choice 0 that is text and nothing else, as most are; None for any other.

        Any other is kept, for `read_whole`.
        """
        if self._choice_index:
            return None
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None  # `read_whole` says what is wrong
        if type(answer) is not dict:
            return None
        plain = _plain_answer(answer)
        if plain is None:
            self._unread = answer
        return plain

    def _read_answer(self, answer: dict[str, Any], batch: EventBatch) -> None:
        """Reads an answer of any shape."""
        if answer.get("error"):
            raise failure_of_error(answer["error"])
        choice = _choice(answer)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise broken("a choice has no message")
        self._read_delta(message, choice.get("logprobs"), batch, whole=True)
        self._read_finish(choice)
        self._read_usage(answer)
        self._end(batch)

    # Chunks

    def _read_frame(self, frame: bytes | NamedEvent, batch: EventBatch) -> None:
        if isinstance(frame, NamedEvent):
            if frame.name == b"error" and not self.done:
                raise _failure_of_frame(frame.data)
            frame = frame.data
        if self.done or not frame:
            return
        if frame == b"[DONE]":
            self.done = True
            return
        try:
            chunk = orjson.loads(frame)
        except orjson.JSONDecodeError as error:
            raise broken(f"a chunk is not JSON: {error}") from error
        if type(chunk) is not dict:
            raise broken("a chunk is not an object")
        if chunk.get("error"):
            raise failure_of_error(chunk["error"])
        if chunk.get("usage"):
            self._read_usage(chunk)
        choices = chunk.get("choices")
        if choices and self._read_choice(choices, batch) and not chunk.get("usage"):
            self._template.learn(frame, chunk)

    def _read_choice(self, choices: Any, batch: EventBatch) -> bool:
        """Reads the choice of a chunk; returns whether text is all that it has."""
        if type(choices) is not list or type(choices[0]) is not dict:
            raise broken("the choices are not a list of objects")
        choice = choices[0]  # one was asked for
        delta, logprobs, reason = choice.get("delta"), choice.get("logprobs"), choice.get("finish_reason")
        only_text = False
        if delta:
            if type(delta) is not dict:
                raise broken("a delta is not an object")
            only_text = not logprobs and _is_text(delta)
            self._read_delta(delta, logprobs, batch, whole=False)
        if reason:
            self._read_finish(choice)
        return only_text and not reason

    def _read_delta(self, delta: dict[str, Any], logprobs: Any, batch: EventBatch, *, whole: bool) -> None:
        if not isinstance(logprobs, dict):
            logprobs = {}
        if ("reasoning_content" in delta or "reasoning" in delta) and (
            thoughts := string(delta.get("reasoning_content")) or string(delta.get("reasoning"))
        ):
            self._add_reasoning(thoughts, batch)
        if delta.get("refusal") or logprobs.get("refusal"):
            event = batch.events.add().refusal_delta
            self._fill(event, string(delta.get("refusal")), logprobs.get("refusal"))
        content = delta.get("content")
        if isinstance(content, list):
            self._read_parts(content, batch)
        elif content and type(content) is str and not logprobs:
            self._add_text(content, batch)
        elif content or logprobs.get("content"):
            self._fill(batch.events.add().text_delta, string(content), logprobs.get("content"))
        if delta.get("audio"):
            self._read_audio(delta["audio"], batch)
        if delta.get("tool_calls"):
            for fragment in delta["tool_calls"]:
                self._add_tool_call(fragment, batch, whole=whole)
        if delta.get("function_call"):  # the form before tools
            self._add_tool_call({"index": 0, "function": delta["function_call"]}, batch, whole=whole)

    def _fill(self, event: TextDelta | RefusalDelta, text: str, logprobs: Any) -> None:
        event.choice_index = self._choice_index
        event.text = text
        if logprobs:
            event.logprobs.extend(_logprobs(logprobs))

    def _add_text(self, text: str, batch: EventBatch) -> None:
        if self._choice_index:
            self._fill(batch.events.add().text_delta, text, None)
        else:
            batch.MergeFromString(text_event(text))

    def _add_tool_call(self, fragment: Any, batch: EventBatch, *, whole: bool) -> None:
        if self._tool_calls is None:
            self._tool_calls = ToolCalls(self._choice_index, self._mark)
        self._tool_calls.add(fragment, batch, whole=whole)

    def _add_reasoning(self, text: str, batch: EventBatch) -> None:
        event = batch.events.add().reasoning_delta
        event.choice_index = self._choice_index
        event.text = text

    def _read_parts(self, parts: list[Any], batch: EventBatch) -> None:
        """Reads content that is a list of parts, as some servers send it with thoughts among them."""
        for part in parts:
            match part:
                case {"type": "text", "text": str(text)} if text:
                    self._fill(batch.events.add().text_delta, text, None)
                case {"type": "refusal", "refusal": str(text)} if text:
                    self._fill(batch.events.add().refusal_delta, text, None)
                case {"type": "thinking", "thinking": str(text)} if text:
                    self._add_reasoning(text, batch)
                case {"type": "thinking", "thinking": list(inner)}:
                    for piece in inner:
                        if isinstance(piece, dict) and (text := string(piece.get("text"))):
                            self._add_reasoning(text, batch)

    def _read_audio(self, audio: Any, batch: EventBatch) -> None:
        if not isinstance(audio, dict):
            raise broken("the sound is not an object")
        encoded = self._audio_rest + string(audio.get("data"))
        cut = len(encoded) & ~3  # base64 goes by four characters, chunks need not
        self._audio_rest = encoded[cut:]
        event = batch.events.add().audio_delta
        event.choice_index = self._choice_index
        event.audio_id = string(audio.get("id"))
        event.transcript = string(audio.get("transcript"))
        try:
            event.data = a2b_base64(encoded[:cut], strict_mode=True)
        except (Base64Error, ValueError) as error:
            raise broken(f"the sound is not base64: {error}") from error
        if isinstance(expires := audio.get("expires_at"), int):
            event.expire_time.FromSeconds(expires)

    def _read_finish(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if not reason or self._finish is not None:
            return
        word = reason.lower() if isinstance(reason, str) else ""
        if word in _FAILED_FINISH:
            error = choice.get("error")
            raise failure_of_error(error if error else f"the provider ended the answer with {word!r}")
        # An unknown word says that the answer is complete, only not why.
        self._finish = _FINISH.get(word) or (_TOOL_CALLS if self._tool_calls else _STOP)
        self._stop_sequence = string(choice.get("stop_reason"))  # vLLM's, a text or a token id

    def _read_usage(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        if isinstance(usage, dict) and usage:
            self._usage = usage  # where every chunk has one, the last is the sum

    def _end(self, batch: EventBatch) -> None:
        reason = self._finish
        if reason is None:
            raise broken("it ended without a finish reason")
        if self._audio_rest:
            raise broken("the sound is cut off")
        if self._tool_calls is not None:
            self._tool_calls.complete(batch)
        usage = b"" if self._usage is None else usage_event(encode_usage(self._usage))
        if self._choice_index or self._stop_sequence:
            finished = batch.events.add().choice_finished
            finished.choice_index = self._choice_index
            finished.finish_reason = reason
            finished.stop_sequence = self._stop_sequence
            batch.MergeFromString(usage)
        else:
            batch.MergeFromString(FINISHED[reason] + usage)


def _plain_answer(answer: dict[str, Any]) -> tuple[str, FinishReason, bytes | None] | None:
    """Returns text, finish reason and usage of an answer that is text and nothing else; None for any other.

    It is what `ResponseReader._read_answer` makes of it, told in one place because every plain request comes by here.
    """
    choices = answer.get("choices")
    if type(choices) is not list or not choices or answer.get("error"):
        return None
    choice = choices[0]
    if type(choice) is not dict or choice.get("logprobs") or choice.get("stop_reason"):
        return None
    message, word = choice.get("message"), choice.get("finish_reason")
    if type(message) is not dict or type(word) is not str or word not in _FINISH:
        return None
    text = message.get("content")
    if type(text) is not str or not text:
        return None
    for key, value in message.items():
        if value and key != "content" and key != "role":  # servers name what they do not send
            return None
    usage = answer.get("usage")
    return text, _FINISH[word], encode_usage(usage) if usage and type(usage) is dict else None


def _is_text(delta: dict[str, Any]) -> bool:
    """Whether a delta has text and nothing else; servers repeat the role, and name what they do not send."""
    return type(delta.get("content")) is str and (
        len(delta) == 1 or all(key in ("content", "role") or value is None for key, value in delta.items())
    )


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise broken("it has no choice")
    choice: dict[str, Any] = choices[0]  # one was asked for
    return choice


def _logprobs(reported: Any) -> Iterable[TokenLogprob]:
    if not isinstance(reported, list):
        raise broken("the log probabilities are not a list")
    for entry in reported:
        if not isinstance(entry, dict):
            raise broken("a log probability is not an object")
        yield TokenLogprob(
            token=string(entry.get("token")),
            logprob=_number(entry.get("logprob")),
            token_bytes=_token_bytes(entry.get("bytes")),
            top=[
                TopLogprob(
                    token=string(top.get("token")),
                    logprob=_number(top.get("logprob")),
                    token_bytes=_token_bytes(top.get("bytes")),
                )
                for top in entry.get("top_logprobs") or ()
                if isinstance(top, dict)
            ],
        )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else _UNLIKELY


def _token_bytes(value: Any) -> bytes:
    try:
        return bytes(value) if isinstance(value, list) else b""
    except (TypeError, ValueError) as error:
        raise broken(f"the bytes of a token are wrong: {error}") from error


def _failure_of_frame(frame: bytes) -> ProviderError:
    """Returns the failure of an event named `error`, whose data may be flat."""
    try:
        error = orjson.loads(frame)
    except orjson.JSONDecodeError:
        error = frame.decode("utf-8", "replace")
    return failure_of_error(error.get("error") or error if isinstance(error, dict) else error)
