"""Renders a finished run as a chat completion, and the pieces that streams share with it.

Repeated fields are walked as slices: one list is cheaper than to ask a field for each of its items.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import TOOL_KIND_CUSTOM
from dragoman.v1.run_pb2 import Run
from dragoman_edge.calls import raise_unless_completed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.event_pb2 import TokenLogprob
    from dragoman.v1.message_pb2 import AudioPart, Message, ToolCall
    from dragoman.v1.run_pb2 import Choice
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_edge.dialects.openai.schemas import ChatCompletionRequest

_FINISH_REASONS: dict[int, str] = {
    FinishReason.FINISH_REASON_STOP: "stop",
    FinishReason.FINISH_REASON_LENGTH: "length",
    FinishReason.FINISH_REASON_TOOL_CALLS: "tool_calls",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "content_filter",
}

_dumps = orjson.dumps
_NOTHING_READ = ',"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}'
_NOTHING_WRITTEN = (
    ',"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}'
)
_COMPLETED = Run.STATE_COMPLETED
_STOP = FinishReason.FINISH_REASON_STOP


class AnswerOptions(NamedTuple):
    """What of a request shapes its answer.

    Attributes:
        model: The model that the client asked for; empty if it named none.
        logprobs: Whether log probabilities were asked for.
        include_usage: Whether a stream ends with the usage.
        legacy_functions: Whether calls are told as the deprecated `function_call`.
    """

    model: str = ""
    logprobs: bool = False
    include_usage: bool = False
    legacy_functions: bool = False


def options_of(request: ChatCompletionRequest) -> AnswerOptions:
    """Returns what of a request shapes its answer."""
    stream_options = request.get("stream_options")
    return AnswerOptions(
        request.get("model") or "",
        bool(request.get("logprobs")),
        bool(stream_options and stream_options.get("include_usage")),
        request.get("functions") is not None,
    )


def completion_id(run_id: str) -> str:
    """Returns the id of a run's completion."""
    return "chatcmpl-" + run_id.removeprefix("run_")


def finish_reason(reason: int, options: AnswerOptions) -> str:
    """Returns why a choice ended, in the words of the dialect."""
    name = _FINISH_REASONS[reason]
    return "function_call" if name == "tool_calls" and options.legacy_functions else name


def render_completion(run: Run, options: AnswerOptions) -> bytes:
    """Renders a run that has ended as a `chat.completion` object.

    Raises:
        EdgeError: If it failed or was cancelled.
    """
    if run.state != _COMPLETED:
        raise_unless_completed(run)
    choices = run.choices
    if len(choices) == 1 and not options.logprobs:
        choice = choices[0]
        parts = choice.message.parts
        if len(parts) == 1 and (part := parts[0]).HasField("text") and not choice.index:
            return _one_text(run, choice, part.text.text, options)
    return _dumps(completion_object(run, options))


def _one_text(run: Run, choice: Choice, text: str, options: AnswerOptions) -> bytes:
    """Renders an answer of one text, as most are, without an object for each brace."""
    reason = choice.finish_reason
    name = "stop" if reason == _STOP else finish_reason(reason, options)
    usage = _usage(run.usage) if run.HasField("usage") else ""
    return (
        b'{"id":'
        + _dumps(completion_id(run.id))
        + f',"object":"chat.completion","created":{run.create_time.seconds},"model":'.encode()
        + _dumps(options.model or run.model)
        + b',"choices":[{"index":0,"message":{"role":"assistant","content":'
        + _dumps(text)
        + f',"refusal":null}},"logprobs":null,"finish_reason":"{name}"}}]{usage}}}'.encode()
    )


def _usage(usage: Usage) -> str:
    """Returns the member `usage`; of details that are all 0, as most are, it does not ask for each."""
    details = ""
    if usage.HasField("input_details"):
        if usage.input_details.ByteSize():
            return f',"usage":{_dumps(usage_object(usage)).decode()}'
        details = _NOTHING_READ
    if usage.HasField("output_details"):
        if usage.output_details.ByteSize():
            return f',"usage":{_dumps(usage_object(usage)).decode()}'
        details += _NOTHING_WRITTEN
    read_tokens, written_tokens = usage.input_tokens, usage.output_tokens
    return (
        f',"usage":{{"prompt_tokens":{read_tokens},"completion_tokens":{written_tokens},'
        f'"total_tokens":{read_tokens + written_tokens}{details}}}'
    )


def completion_object(run: Run, options: AnswerOptions) -> dict[str, Any]:
    """Returns the `chat.completion` object of a run that has completed, whatever the model said."""
    completion: dict[str, Any] = {
        "id": completion_id(run.id),
        "object": "chat.completion",
        "created": run.create_time.seconds,
        "model": options.model or run.model,
        "choices": [_choice(choice, options) for choice in run.choices[:]],
    }
    if run.HasField("usage"):
        completion["usage"] = usage_object(run.usage)
    return completion


def _choice(choice: Choice, options: AnswerOptions) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": _message(choice.message, options),
        "logprobs": logprobs_object(choice.logprobs, choice.refusal_logprobs) if options.logprobs else None,
        "finish_reason": finish_reason(choice.finish_reason, options),
    }


def _message(message: Message, options: AnswerOptions) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    calls: list[ToolCall] = []
    answer: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for part in message.parts[:]:
        match part.WhichOneof("kind"):
            case "text":
                texts.append(part.text.text)
            case "reasoning":
                thoughts.append(part.reasoning.text)
            case "refusal":
                refusals.append(part.refusal.text)
            case "tool_call":
                calls.append(part.tool_call)
            case "audio":
                answer["audio"] = _audio(part.audio)
    if texts or not (refusals or calls or "audio" in answer):
        answer["content"] = "".join(texts)
    if refusals:
        answer["refusal"] = "".join(refusals)
    if thoughts:
        answer["reasoning_content"] = "".join(thoughts)
    if calls and options.legacy_functions:
        answer["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        answer["tool_calls"] = [_tool_call(call) for call in calls]
    return answer


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return call_object(call.id, call.name, call.arguments, call.kind, call.signature)


def call_object(call_id: str, name: str, arguments: str, kind: int, signature: bytes) -> dict[str, Any]:
    """Returns a call of a tool, or the first piece of one; a signature stands where Google's own endpoint has it."""
    word, member = ("custom", "input") if kind == TOOL_KIND_CUSTOM else ("function", "arguments")
    told: dict[str, Any] = {"id": call_id, "type": word, word: {"name": name, member: arguments}}
    if signature:
        told["extra_content"] = {"google": {"thought_signature": base64.b64encode(signature).decode()}}
    return told


def _audio(audio: AudioPart) -> dict[str, Any]:
    return {
        "id": audio.audio_id,
        "data": base64.b64encode(audio.data).decode(),
        "expires_at": audio.expire_time.seconds,
        "transcript": audio.transcript,
    }


def logprobs_object(content: Iterable[TokenLogprob], refusal: Iterable[TokenLogprob]) -> dict[str, Any] | None:
    """Returns the log probabilities of an answer or a piece of it, or None if there are none."""
    spoken, refused = [_token(token) for token in content], [_token(token) for token in refusal]
    if not spoken and not refused:
        return None
    return {"content": spoken or None, "refusal": refused or None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token_bytes) or None,
        "top_logprobs": [
            {"token": top.token, "logprob": top.logprob, "bytes": list(top.token_bytes) or None} for top in token.top
        ],
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """Returns what a run consumed, in the words of the dialect; details only where the provider gave any."""
    read_tokens, written_tokens = usage.input_tokens, usage.output_tokens
    answer: dict[str, Any] = {
        "prompt_tokens": read_tokens,
        "completion_tokens": written_tokens,
        "total_tokens": read_tokens + written_tokens,
    }
    if usage.HasField("input_details"):
        read = usage.input_details
        details = {"cached_tokens": read.cached_tokens, "audio_tokens": read.audio_tokens}
        for name in ("cache_write_tokens", "image_tokens", "text_tokens"):
            if value := getattr(read, name):
                details[name] = value
        answer["prompt_tokens_details"] = details
    if usage.HasField("output_details"):
        written = usage.output_details
        details = {
            "reasoning_tokens": written.reasoning_tokens,
            "audio_tokens": written.audio_tokens,
            "accepted_prediction_tokens": written.accepted_prediction_tokens,
            "rejected_prediction_tokens": written.rejected_prediction_tokens,
        }
        if text := written.text_tokens:
            details["text_tokens"] = text
        answer["completion_tokens_details"] = details
    return answer
