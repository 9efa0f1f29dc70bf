"""Renders a finished run as a `GenerateContentResponse`, and the pieces that streams share with it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason
from dragoman_edge.calls import raise_unless_completed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.v1.event_pb2 import TokenLogprob
    from dragoman.v1.message_pb2 import Citation, Part, ReasoningPart, ToolCall
    from dragoman.v1.run_pb2 import Choice, Run
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_edge.dialects.gemini.request import Json


class Sound(NamedTuple):
    """What spoken answers are.

    Attributes:
        format: What is asked for, in the words of the contract.
        media_type: What the answer calls it.
    """

    format: str
    media_type: str


SOUND = Sound("pcm16", "audio/L16;codec=pcm;rate=24000")

BLOCKED: Json = {"promptFeedback": {"blockReason": "SAFETY"}}
"""What is answered in place of candidates when a filter refused the request: no error in this dialect."""

FINISH_REASONS: dict[int, str] = {
    FinishReason.FINISH_REASON_STOP: "STOP",
    FinishReason.FINISH_REASON_LENGTH: "MAX_TOKENS",
    FinishReason.FINISH_REASON_TOOL_CALLS: "STOP",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "SAFETY",
}
MALFORMED = "MALFORMED_FUNCTION_CALL"


class AnswerOptions(NamedTuple):
    """What of a request shapes its answer.

    Attributes:
        thoughts: Whether thoughts are shown; signatures always are.
        logprobs: Whether log probabilities were asked for.
        array: Whether a stream is a JSON array, not server-sent events.
    """

    thoughts: bool = False
    logprobs: bool = False
    array: bool = False


def options_of(request: Json, *, array: bool = False) -> AnswerOptions:
    """Returns what of a checked request shapes its answer."""
    config = request.get("generationConfig", {})
    return AnswerOptions(
        thoughts=config.get("thinkingConfig", {}).get("includeThoughts", False),
        logprobs=config.get("responseLogprobs", False),
        array=array,
    )


def render_answer(run: Run, options: AnswerOptions) -> bytes:
    """Renders a run that has ended.

    Raises:
        EdgeError: If the run failed or was cancelled, unless a filter refused the request.
    """
    if is_blocked(run.failure.reason):
        answer = dict(BLOCKED)
    else:
        raise_unless_completed(run)
        answer = {"candidates": [_candidate(choice, options) for choice in run.choices[:]]}
    if run.HasField("usage"):
        answer["usageMetadata"] = usage_metadata(run.usage)
    return orjson.dumps(answer | {"modelVersion": run.model, "responseId": run.id})


def is_blocked(reason: str) -> bool:
    """Whether a failure's reason is that a filter refused the request."""
    return reason == Reason.CONTENT_FILTERED


def _candidate(choice: Choice, options: AnswerOptions) -> Json:
    parts: list[Json] = []
    citations: list[Citation] = []
    malformed = ""
    for part in choice.message.parts[:]:
        if part.HasField("tool_call") and call_part(part.tool_call) is None:
            malformed = malformed or malformed_message(part.tool_call)
            continue
        if (rendered := _part(part, options)) is not None:
            parts.append(rendered)
        citations += part.text.citations
    candidate: Json = {
        "content": {"parts": parts or [{"text": ""}], "role": "model"},
        "finishReason": MALFORMED if malformed else FINISH_REASONS[choice.finish_reason],
        "index": choice.index,
    }
    if malformed:
        candidate["finishMessage"] = malformed
    if citations:
        candidate["citationMetadata"] = citation_metadata(citations)
    if options.logprobs and choice.logprobs:
        candidate["logprobsResult"] = logprobs_result(choice.logprobs[:])
        total = sum(token.logprob for token in choice.logprobs)
        candidate["avgLogprobs"] = total / len(choice.logprobs)
    return candidate


def _part(part: Part, options: AnswerOptions) -> Json | None:
    match part.WhichOneof("kind"):
        case "text":
            return {"text": part.text.text}
        case "refusal":
            return {"text": part.refusal.text}
        case "reasoning":
            return _thought(part.reasoning, options)
        case "tool_call":
            return call_part(part.tool_call)
        case "audio":
            return sound_part(part.audio.data)
    return None


def _thought(reasoning: ReasoningPart, options: AnswerOptions) -> Json | None:
    return thought_part(reasoning.text if options.thoughts else "", reasoning.signature)


def thought_part(text: str, signature: bytes) -> Json | None:
    """Returns a thought, or None if it has neither text nor signature."""
    if not text and not signature:
        return None
    part: Json = {"text": text, "thought": True}
    if signature:
        part["thoughtSignature"] = base64.b64encode(signature).decode()
    return part


def call_part(call: ToolCall) -> Json | None:
    """Returns a call, or None if its arguments are no JSON object, which this dialect cannot tell."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(arguments, dict):
        return None
    part: Json = {"functionCall": {"id": call.id, "name": call.name, "args": arguments}}
    if call.signature:
        part["thoughtSignature"] = base64.b64encode(call.signature).decode()
    return part


def malformed_message(call: ToolCall) -> str:
    """Returns what `finishMessage` says of a call whose arguments make no sense."""
    return f"Malformed function call: {call.name}({call.arguments})"


def sound_part(data: bytes) -> Json:
    """Returns a piece of a spoken answer."""
    return {"inlineData": {"mimeType": SOUND.media_type, "data": base64.b64encode(data).decode()}}


def citation_metadata(citations: Sequence[Citation]) -> Json:
    """Returns where an answer has its text from."""
    sources: list[Json] = []
    for citation in citations:
        source: dict[str, Any] = {"startIndex": citation.start_index}
        if citation.end_index:
            source["endIndex"] = citation.end_index
        if citation.url:
            source["uri"] = citation.url
        sources.append(source)
    return {"citationSources": sources}


def logprobs_result(tokens: Sequence[TokenLogprob]) -> Json:
    """Returns the log probabilities of an answer or a piece of it."""
    chosen = [{"token": token.token, "logProbability": token.logprob} for token in tokens]
    top = [
        {"candidates": [{"token": other.token, "logProbability": other.logprob} for other in token.top]}
        for token in tokens
    ]
    return (
        {"topCandidates": top, "chosenCandidates": chosen}
        if any(token.top for token in tokens)
        else {"chosenCandidates": chosen}
    )


def usage_metadata(usage: Usage) -> Json:
    """Returns what a run consumed; thoughts are counted apart from the candidates."""
    read, written = usage.input_details, usage.output_details
    answer: Json = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - written.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if written.reasoning_tokens:
        answer["thoughtsTokenCount"] = written.reasoning_tokens
    if read.cached_tokens:
        answer["cachedContentTokenCount"] = read.cached_tokens
    if details := _modalities(read, ("text", "image", "audio")):
        answer["promptTokensDetails"] = details
    if details := _modalities(written, ("text", "audio")):
        answer["candidatesTokensDetails"] = details
    return answer


def _modalities(details: object, names: tuple[str, ...]) -> list[Json]:
    return [
        {"modality": name.upper(), "tokenCount": count}
        for name in names
        if (count := getattr(details, f"{name}_tokens"))
    ]
