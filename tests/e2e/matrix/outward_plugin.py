"""A model backend over gRPC, and the scripted provider: those that speak the contract itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dragoman.plugin.v1 import model_backend_pb2_grpc
from dragoman.plugin.v1.model_backend_pb2 import DescribeRequest, DescribeResponse, GenerateRequest, GenerateResponse
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.message_pb2 import Role
from dragoman.v1.sampling_pb2 import Modality
from tests.e2e.matrix.outward_http import RETRY_AFTER
from tests.e2e.matrix.words import SILENCE, Ask, Call, Result, Said, Seen, Tokens, Tool, Turn, joined

MODEL = Model(
    id="m",
    context_length=1000,
    input_modalities=[Modality.MODALITY_TEXT, Modality.MODALITY_IMAGE],
    output_modalities=[Modality.MODALITY_TEXT],
    capabilities=ModelCapabilities(
        chat=True, tools=True, json_schema=True, json_object=True, logprobs=True, vision=True, reasoning=True
    ),
)
REASONS = {
    "400": ("PROVIDER_REJECTED", False),
    "401": ("PROVIDER_AUTH", False),
    "429": ("PROVIDER_RATE_LIMITED", True),
    "500": ("PROVIDER_FAILED", True),
    "error frame": ("PROVIDER_FAILED", True),
}
"""What troubles are in the words of the contract, and whether another try may help."""
_FINISH = {
    "stop": FinishReason.FINISH_REASON_STOP,
    "length": FinishReason.FINISH_REASON_LENGTH,
    "tool_calls": FinishReason.FINISH_REASON_TOOL_CALLS,
    "content_filter": FinishReason.FINISH_REASON_CONTENT_FILTER,
}
_ROLES = {Role.ROLE_USER: "user", Role.ROLE_ASSISTANT: "assistant", Role.ROLE_TOOL: "tool"}


@dataclass
class PluginBackend(model_backend_pb2_grpc.ModelBackendServicer):
    """The backend; `said` is what it says next."""

    said: Said = SILENCE
    requests: list[GenerateRequest] = field(default_factory=list)

    async def Describe(self, request: DescribeRequest, context: Any) -> DescribeResponse:
        return DescribeResponse(name="matrix", version="1", models=[MODEL])

    async def Generate(self, request: GenerateRequest, context: Any) -> AsyncIterator[GenerateResponse]:
        self.requests.append(request)
        said = self.said
        if not said.trouble.isdigit():
            for event in _events(said):
                yield GenerateResponse(events=[event])
        if said.trouble == "cut":
            return
        if said.trouble:
            reason, retryable = REASONS[said.trouble]
            failure = Failure(reason=reason, message="it hurts", retryable=retryable)
            if said.trouble == "429":
                failure.retry_after.seconds = RETRY_AFTER
            yield GenerateResponse(failure=failure)
            return
        yield GenerateResponse(events=list(_ending(said)))

    @property
    def seen(self) -> Seen:
        spec = self.requests[-1].spec
        instructions: list[str] = []
        turns: list[Turn] = []
        for message in spec.messages:
            if message.role in (Role.ROLE_SYSTEM, Role.ROLE_DEVELOPER):
                instructions += [part.text.text for part in message.parts]
            else:
                turns.append(_turn(_ROLES[message.role], message.parts))
        form = spec.response_format
        schema = {} if form.HasField("json_object") else json.loads(form.json_schema.schema_json or "null")
        tools = [tool.function for tool in spec.tools]
        sampling = spec.sampling
        return Seen(
            tuple(instructions),
            joined(turns),
            tuple(Tool(one.name, one.description, json.loads(one.parameters_json)) for one in tools),
            spec.tool_choice.tool.name or "".join(one.name for one in spec.tool_choice.allowed.tools),
            schema,
            sampling.max_output_tokens if sampling.HasField("max_output_tokens") else None,
            tuple(sampling.stop),
            sampling.temperature if sampling.HasField("temperature") else None,
            sampling.seed if sampling.HasField("seed") else None,
            sampling.logprobs,
        )


def _turn(role: str, parts: Any) -> Turn:
    calls = [part.tool_call for part in parts if part.HasField("tool_call")]
    results = [part.tool_result for part in parts if part.HasField("tool_result")]
    return Turn(
        role,
        "".join(part.text.text for part in parts),
        tuple(part.image.data for part in parts if part.HasField("image")),
        "".join(part.reasoning.text for part in parts),
        b"".join(part.reasoning.signature for part in parts),
        tuple(Call(one.id, one.name, (one.arguments,), one.signature) for one in calls),
        tuple(Result(one.call_id, "", one.parts[0].text.text) for one in results),
    )


def _events(said: Said) -> Iterator[RunEvent]:
    for thought in said.thoughts:
        event = RunEvent()
        event.reasoning_delta.text = thought
        yield event
    if said.signature:
        event = RunEvent()
        event.reasoning_delta.signature = said.signature
        yield event
    for text in said.text:
        event = RunEvent()
        event.text_delta.text = text
        if said.logprobs:
            event.text_delta.logprobs.add(token=text, logprob=-0.5)
        yield event
    for index, call in enumerate(said.calls):
        event = RunEvent()
        started = event.tool_call_started
        started.call_index, started.call_id, started.name, started.signature = index, call.id, call.name, call.signature
        yield event
        for piece in call.pieces:
            event = RunEvent()
            event.tool_call_arguments_delta.call_index = index
            event.tool_call_arguments_delta.arguments = piece
            yield event
        event = RunEvent()
        event.tool_call_completed.call_index = index
        yield event


def _ending(said: Said) -> Iterator[RunEvent]:
    event = RunEvent()
    event.choice_finished.finish_reason = _FINISH[said.finish]
    yield event
    yield _usage_event(said.tokens)


def _usage_event(tokens: Tokens) -> RunEvent:
    event = RunEvent()
    usage = event.usage_reported.last_call
    usage.input_tokens, usage.output_tokens = tokens.read, tokens.written
    usage.input_details.cached_tokens = tokens.cached
    usage.output_details.reasoning_tokens = tokens.thoughts
    return event


def scripted(ask: Ask, said: Said) -> Ask:
    """Returns a request that makes the scripted provider say so: the last thing that the user says is the script."""
    if ask.turns[-1].role == "tool":
        return ask
    script: dict[str, Any] = {
        "text": said.text,
        "reasoning": said.thoughts,
        "finish": said.finish,
        "usage": {"input_tokens": said.tokens.read, "output_tokens": said.tokens.written},
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.pieces} for call in said.calls],
    }
    count = len(said.text) + len(said.thoughts)
    if said.trouble == "cut":
        script["drop_after"] = count
    elif said.trouble:
        reason, retryable = REASONS[said.trouble]
        failure = {"reason": reason, "message": "it hurts", "retryable": retryable}
        if said.trouble == "429":
            failure["retry_after"] = RETRY_AFTER
        if said.trouble == "error frame":
            script["fail_after"] = {**failure, "after": count}
        else:
            script["fail_before"] = failure
    last = Turn("user", "SCRIPT " + json.dumps(script))
    before = ask.turns if ask.turns[-1].images else ask.turns[:-1]  # a script stands alone
    return replace(ask, turns=(*before, last))
