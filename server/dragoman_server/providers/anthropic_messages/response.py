"""From an answer of the Messages API, whole or streamed, to events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import Citation, ToolKind
from dragoman_server.ids import new_id
from dragoman_server.providers.anthropic_messages.template import DeltaTemplate
from dragoman_server.providers.anthropic_messages.usage import merge, usage_of
from dragoman_server.providers.failures import broken, failure_of_error
from dragoman_server.providers.json_values import answer_object, string
from dragoman_server.providers.sse import NamedEvent, SseDecoder, SseFrameTooLarge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import EventBatch
    from dragoman_server.providers.json_values import Json

_STOP = FinishReason.FINISH_REASON_STOP
_LENGTH = FinishReason.FINISH_REASON_LENGTH
_TOOL_CALLS = FinishReason.FINISH_REASON_TOOL_CALLS

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": _STOP,
    "stop_sequence": _STOP,
    "max_tokens": _LENGTH,
    "model_context_window_exceeded": _LENGTH,
    "pause_turn": _LENGTH,  # a long turn of the provider's own tools: cut, to be continued
    "tool_use": _TOOL_CALLS,
    "refusal": FinishReason.FINISH_REASON_CONTENT_FILTER,
}
_TEXT_KEYS: Mapping[str, str] = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""The kinds of deltas that are nearly all of a stream, and where their text is."""


class _Block:
    """A block of the answer while it comes.

    Attributes:
        kind: What it is; blocks of unknown kinds (of the provider's own tools, for example) are passed over.
        start: Where its text begins in the whole text.
        citations: The sources of its text.
        signature: The proof of its thoughts.
        call_index: The call that it is.
        fed: Whether arguments have come.
        arguments: Arguments that came with its beginning; they count only if no others come.
    """

    __slots__ = ("arguments", "call_index", "citations", "fed", "kind", "signature", "start")

    def __init__(self, kind: str, start: int) -> None:
        self.kind = kind
        self.start = start
        self.citations: list[Citation] = []
        self.signature = ""
        self.call_index = 0
        self.fed = False
        self.arguments: Json = {}


class ResponseReader:
    """Reads one answer, for one choice, and appends its events to batches.

    Args:
        choice_index: The index that the events carry.
        mark: The provider's mark on its signatures.
    """

    def __init__(self, choice_index: int, mark: bytes) -> None:
        self.done = False
        """Whether the stream said that it is complete."""
        self._choice_index = choice_index
        self._mark = mark
        self._decoder = SseDecoder()
        self._between = False  # whether the next bytes begin an event
        self._template = DeltaTemplate()
        self._template_block = _Block("", 0)  # the one whose deltas the template recognises
        self._blocks: dict[int, _Block] = {}  # open ones, by their index
        self._call_count = 0
        self._length = 0  # of the text so far, in characters
        self._usage: Json = {}
        self._stop_reason = ""
        self._stop_sequence = ""

    @property
    def usage(self) -> Usage | None:
        """What the provider has told of its consumption; None if nothing."""
        if not self._usage:
            return None
        usage = usage_of(self._usage)
        if not self._stop_reason:  # at its beginning, a stream does not know how long the answer will be
            usage.ClearField("output_tokens")
        return usage

    def read_text(self, data: bytes) -> str | None:
        """Returns None: `read_stream` is the one way."""
        return None

    def read_stream(self, data: bytes, batch: EventBatch) -> bool:
        """Reads the next bytes of a stream; returns whether they brought more than keep-alives.

        Raises:
            ProviderError: If the provider reports a failure, or its bytes make no sense. The batch keeps the rest.
        """
        moved = False
        if not self._between:
            end = data.find(b"\n\n") + 2
            if end < 2:
                return self._read_events(data, b"", batch)
            moved = self._read_events(data[:end], b"", batch)
            data = data[end:]
        *events, rest = data.split(b"\n\n")
        for event in events:
            text = self._template.match(event)
            if text is None:
                moved |= self._read_events(event + b"\n\n", event, batch)
            elif not self.done:
                moved = True
                self._append(self._template_block, text, batch)
        self._between = not rest
        return self._read_events(rest, b"", batch) or moved if rest else moved

    def end_stream(self, batch: EventBatch) -> None:
        """Takes the end of the stream, and appends what was held back.

        Raises:
            ProviderError: If the answer is not finished.
        """
        for frame in self._decoder.finish():
            self._read_frame(frame, b"", batch)
        if not self.done:
            raise broken("it broke off")
        self._end(batch)

    def read_plain(self, data: bytes) -> None:
        """Reads nothing: every whole answer is read as a batch."""

    def read_whole(self, data: bytes, batch: EventBatch) -> None:
        """Reads an answer that came in one piece.

        Raises:
            ProviderError: If the provider reports a failure, or the answer makes no sense or is not finished.
        """
        answer = answer_object(data)
        if answer.get("error"):
            raise failure_of_error(answer["error"])
        content = answer.get("content")
        if not isinstance(content, list):
            raise broken("it has no content")
        for part in content:
            self._close(self._open(part, batch), batch)
        self._read_stop(answer, batch)
        merge(self._usage, answer.get("usage"))
        self._end(batch)

    # Events of a stream

    def _read_events(self, data: bytes, event: bytes, batch: EventBatch) -> bool:
        try:
            frames = self._decoder.feed(data)
        except SseFrameTooLarge as error:
            raise broken(str(error)) from error
        moved = False
        for frame in frames:
            moved |= self._read_frame(frame, event, batch)
        return moved

    def _read_frame(self, frame: bytes | NamedEvent, event: bytes, batch: EventBatch) -> bool:
        """Reads one event; returns whether it is more than a keep-alive.

        Args:
            frame: The event.
            event: The bytes that it was decoded from and nothing else, if they are at hand.
            batch: Takes what it says.
        """
        name, data = frame if isinstance(frame, NamedEvent) else (b"", frame)
        if self.done or not data:
            return False
        payload = answer_object(data)
        kind = payload.get("type", name.decode("utf-8", "replace"))
        match kind:
            case "content_block_delta":
                self._read_delta(payload, event, batch)
            case "content_block_start":
                self._template.clear()
                self._blocks[_index(payload)] = self._open(payload.get("content_block"), batch)
            case "content_block_stop":
                self._template.clear()
                if (block := self._blocks.pop(_index(payload), None)) is not None:
                    self._close(block, batch)
            case "message_start":
                message = payload.get("message")
                merge(self._usage, message.get("usage") if isinstance(message, dict) else None)
            case "message_delta":
                merge(self._usage, payload.get("usage"))
                if isinstance(delta := payload.get("delta"), dict):
                    self._read_stop(delta, batch)
            case "message_stop":
                self.done = True
            case "error":
                raise failure_of_error(payload.get("error") or payload)
            case _:  # a ping, or of a kind that is newer than this reader
                return bool(kind != "ping")
        return True

    def _read_delta(self, payload: Json, event: bytes, batch: EventBatch) -> None:
        block = self._blocks.get(_index(payload))
        delta = payload.get("delta")
        if block is None or not isinstance(delta, dict):
            raise broken("a delta belongs to no block")
        kind = delta.get("type")
        key = _TEXT_KEYS.get(kind) if isinstance(kind, str) else None
        if key is not None:
            text = delta.get(key)
            if not isinstance(text, str):
                raise broken(f"a {kind} has no text")
            self._append(block, text, batch)
            if event and text:
                self._template.learn(event, payload, delta, key)
                self._template_block = block
        elif kind == "signature_delta":
            block.signature += string(delta.get("signature"))
        elif kind == "citations_delta":
            block.citations.append(_citation(delta.get("citation")))

    # Blocks, in a stream or whole

    def _open(self, content: Any, batch: EventBatch) -> _Block:
        """Begins a block, with all that it has at its beginning: that is everything, in an answer of one piece."""
        if not isinstance(content, dict) or not isinstance(content.get("type"), str):
            raise broken("a block is of no kind")
        block = _Block(content["type"], self._length)
        match block.kind:
            case "text":
                block.citations += map(_citation, content.get("citations") or ())
                self._append(block, string(content.get("text")), batch)
            case "thinking":
                block.signature = string(content.get("signature"))
                self._append(block, string(content.get("thinking")), batch)
            case "redacted_thinking":
                hidden = batch.events.add().reasoning_delta
                hidden.choice_index = self._choice_index
                hidden.signature = self._mark + string(content.get("data")).encode()
                hidden.redacted = True
            case "tool_use":
                self._start_call(block, content, batch)
        return block

    def _start_call(self, block: _Block, content: Json, batch: EventBatch) -> None:
        name, arguments = content.get("name"), content.get("input")
        if not isinstance(name, str) or not name:
            raise broken("a tool call has no name")
        block.call_index = self._call_count
        block.arguments = arguments if isinstance(arguments, dict) else {}
        self._call_count += 1
        started = batch.events.add().tool_call_started
        started.choice_index = self._choice_index
        started.call_index = block.call_index
        started.call_id = string(content.get("id")) or new_id("call")
        started.name = name
        started.tool_kind = ToolKind.TOOL_KIND_FUNCTION

    def _append(self, block: _Block, text: str, batch: EventBatch) -> None:
        """Appends more of a block's text, thoughts or arguments."""
        if not text:
            return
        choice_index = self._choice_index
        if block.kind == "text":
            self._length += len(text)
            said = batch.events.add().text_delta
            said.text = text
            if choice_index:
                said.choice_index = choice_index
        elif block.kind == "thinking":
            thought = batch.events.add().reasoning_delta
            thought.text = text
            if choice_index:
                thought.choice_index = choice_index
        elif block.kind == "tool_use":
            block.fed = True
            fed = batch.events.add().tool_call_arguments_delta
            fed.arguments = text
            fed.choice_index = choice_index
            fed.call_index = block.call_index

    def _close(self, block: _Block, batch: EventBatch) -> None:
        """Appends what is known of a block only at its end."""
        if block.kind == "text" and block.citations:
            sources = batch.events.add().text_delta
            sources.choice_index = self._choice_index
            for citation in block.citations:  # they are for the text of their block
                citation.start_index, citation.end_index = block.start, self._length
            sources.citations.extend(block.citations)
        elif block.kind == "thinking" and block.signature:
            proof = batch.events.add().reasoning_delta
            proof.choice_index = self._choice_index
            proof.signature = self._mark + block.signature.encode()
        elif block.kind == "tool_use":
            if not block.fed:
                self._append(block, orjson.dumps(block.arguments).decode(), batch)
            completed = batch.events.add().tool_call_completed
            completed.choice_index = self._choice_index
            completed.call_index = block.call_index

    # The end

    def _read_stop(self, delta: Json, batch: EventBatch) -> None:
        self._stop_reason = string(delta.get("stop_reason")) or self._stop_reason
        self._stop_sequence = string(delta.get("stop_sequence")) or self._stop_sequence
        details = delta.get("stop_details")
        if isinstance(details, dict) and (explanation := string(details.get("explanation"))):
            refusal = batch.events.add().refusal_delta
            refusal.choice_index = self._choice_index
            refusal.text = explanation

    def _end(self, batch: EventBatch) -> None:
        if not self._stop_reason:
            raise broken("it has no stop reason")
        for index in sorted(self._blocks):
            self._close(self._blocks[index], batch)
        finished = batch.events.add().choice_finished
        finished.choice_index = self._choice_index
        # An unknown word says that the answer is complete, only not why.
        finished.finish_reason = _FINISH.get(self._stop_reason) or (_TOOL_CALLS if self._call_count else _STOP)
        finished.stop_sequence = self._stop_sequence
        if self._usage:
            batch.events.add().usage_reported.last_call.CopyFrom(usage_of(self._usage))


def _citation(told: Any) -> Citation:
    if not isinstance(told, dict):
        raise broken("a citation is not an object")
    return Citation(
        url=string(told.get("url")) or string(told.get("source")),
        title=string(told.get("title")) or string(told.get("document_title")),
        cited_text=string(told.get("cited_text")),
    )


def _index(payload: Json) -> int:
    index = payload.get("index")
    if not isinstance(index, int):
        raise broken("a block has no index")
    return index
