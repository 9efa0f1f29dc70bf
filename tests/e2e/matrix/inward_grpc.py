"""Asks over gRPC, with the generated stubs on a socket."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, ROLE_TOOL, ROLE_USER
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, StreamRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from tests.e2e.matrix.http_client import PATIENCE
from tests.e2e.matrix.words import Answer, Ask, Call, Failed, Served, Tokens, Turn
from tests.support.core import METADATA

FIELDS: dict[str, str] = {}
"""The contract is its own words."""
_ROLES = {"user": ROLE_USER, "assistant": ROLE_ASSISTANT, "tool": ROLE_TOOL}
_FINISH = {
    FinishReason.FINISH_REASON_STOP: "stop",
    FinishReason.FINISH_REASON_LENGTH: "length",
    FinishReason.FINISH_REASON_TOOL_CALLS: "tool_calls",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


class Grpc:
    name = "grpc"
    hides: ClassVar[dict[str, str]] = {}

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.stub = RunServiceStub(self.channel)

    async def ask(self, model: str, ask: Ask, *, stream: bool) -> Answer:
        try:
            return await (self._stream if stream else self._execute)(_spec(model, ask))
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error

    async def _execute(self, spec: ChatSpec) -> Answer:
        request = ExecuteRunRequest()
        request.spec.chat.CopyFrom(spec)
        run = (await self.stub.ExecuteRun(request, timeout=PATIENCE, metadata=METADATA)).run
        if run.state != Run.STATE_COMPLETED:
            said = "".join(part.text.text for choice in run.choices for part in choice.message.parts)
            raise _failed(run.failure, said)
        return _answer(run)

    async def _stream(self, spec: ChatSpec) -> Answer:
        request = StreamRunRequest()
        request.spec.chat.CopyFrom(spec)
        reader = _Reader()
        async for batch in self.stub.StreamRun(request, timeout=PATIENCE, metadata=METADATA):
            for event in batch.events:
                reader.take(event)
        return reader.answer()

    async def close(self) -> None:
        await self.channel.close()


def _spec(model: str, ask: Ask) -> ChatSpec:
    spec = ChatSpec(model=model, tool_choice=None)
    for role, text in ((ROLE_SYSTEM, ask.system), (ROLE_DEVELOPER, ask.developer)):
        if text:
            spec.messages.add(role=role).parts.add().text.text = text
    for turn in ask.turns:
        _add_turn(spec, turn)
    for tool in ask.tools:
        function = spec.tools.add().function
        function.name, function.description = tool.name, tool.description
        function.parameters_json = json.dumps(tool.parameters)
    if ask.tool_choice:
        spec.tool_choice.tool.name = ask.tool_choice
    if ask.schema == {}:
        spec.response_format.json_object.SetInParent()
    elif ask.schema is not None:
        form = spec.response_format.json_schema
        form.name, form.schema_json, form.strict = "answer", json.dumps(ask.schema), True
    spec.sampling.stop.extend(ask.stop)
    if ask.max_tokens is not None:
        spec.sampling.max_output_tokens = ask.max_tokens
    if ask.temperature is not None:
        spec.sampling.temperature = ask.temperature
    if ask.seed is not None:
        spec.sampling.seed = ask.seed
    spec.sampling.logprobs = ask.logprobs
    if ask.thoughts:
        spec.include_reasoning = True
    return spec


def _add_turn(spec: ChatSpec, turn: Turn) -> None:
    if turn.role == "tool":
        for result in turn.results:
            made = spec.messages.add(role=ROLE_TOOL).parts.add().tool_result
            made.call_id = result.call_id
            made.parts.add().text.text = result.value
        return
    message = spec.messages.add(role=_ROLES[turn.role])
    if turn.thoughts:
        reasoning = message.parts.add().reasoning
        reasoning.text, reasoning.signature = turn.thoughts, turn.signature
    if turn.text:
        message.parts.add().text.text = turn.text
    for image in turn.images:
        part = message.parts.add().image
        part.data, part.media_type = image, "image/png"
    for call in turn.calls:
        made_call = message.parts.add().tool_call
        made_call.id, made_call.name, made_call.arguments = call.id, call.name, "".join(call.pieces)
        made_call.signature = call.signature


def _answer(run: Run) -> Answer:
    (choice,) = run.choices
    parts = choice.message.parts
    thoughts = [part.reasoning for part in parts if part.HasField("reasoning")]
    calls = [part.tool_call for part in parts if part.HasField("tool_call")]
    return Answer(
        "".join(part.text.text for part in parts),
        (),
        "".join(one.text for one in thoughts),
        b"".join(one.signature for one in thoughts),
        tuple(Call(one.id, one.name, (one.arguments,), one.signature) for one in calls),
        _FINISH[choice.finish_reason],
        _tokens(run.usage),
        len(choice.logprobs),
        Served(run.upstream_model, run.provider, run.attempts, tuple(run.emulated_features), tuple(run.dropped_params)),
    )


class _Reader:
    """Reads the events of a stream."""

    def __init__(self) -> None:
        self._sequence = 0
        self._pieces: list[str] = []
        self._thoughts = ""
        self._signature = b""
        self._calls: list[Call] = []
        self._complete: set[int] = set()
        self._finishes: list[str] = []
        self._usage: Any = None
        self._logprobs = 0
        self._step: Any = None
        self._completed = False

    def take(self, event: Any) -> None:
        self._sequence += 1
        assert event.sequence == self._sequence
        match event.WhichOneof("kind"):
            case "run_started":
                assert self._sequence == 1
            case "step_started":
                self._step = event.step_started
            case "text_delta":
                self._pieces += filter(None, [event.text_delta.text])
                self._logprobs += len(event.text_delta.logprobs)
            case "reasoning_delta":
                self._thoughts += event.reasoning_delta.text
                self._signature += event.reasoning_delta.signature
            case "tool_call_started":
                started = event.tool_call_started
                assert started.call_index == len(self._calls)
                self._calls.append(Call(started.call_id, started.name, (), started.signature))
            case "tool_call_arguments_delta":
                delta = event.tool_call_arguments_delta
                call = self._calls[delta.call_index]
                self._calls[delta.call_index] = Call(
                    call.id, call.name, (*call.pieces, delta.arguments), call.signature
                )
            case "tool_call_completed":
                self._complete.add(event.tool_call_completed.call_index)
            case "choice_finished":
                self._finishes.append(_FINISH[event.choice_finished.finish_reason])
            case "usage_reported":
                self._usage = event.usage_reported.run_total
            case "run_failed":
                raise _failed(event.run_failed.failure, "".join(self._pieces))
            case "run_completed":
                self._completed = True

    def answer(self) -> Answer:
        assert self._completed
        assert not self._usage.estimated
        assert self._complete == set(range(len(self._calls)))
        assert len(self._finishes) == 1
        step = self._step
        return Answer(
            "".join(self._pieces),
            tuple(self._pieces),
            self._thoughts,
            self._signature,
            tuple(self._calls),
            self._finishes[0],
            _tokens(self._usage),
            self._logprobs,
            Served(
                step.upstream_model,
                step.provider,
                step.attempt,
                tuple(step.emulated_features),
                tuple(step.dropped_params),
            ),
        )


def _tokens(usage: Any) -> Tokens:
    return Tokens(
        usage.input_tokens,
        usage.output_tokens,
        usage.input_details.cached_tokens,
        usage.output_details.reasoning_tokens,
    )


def _failed(failure: Any, said: str) -> Failed:
    wait = failure.retry_after.ToMilliseconds() / 1000
    return Failed(
        failure.reason,
        "run",
        failure.message,
        raw=str(failure),
        field=failure.field,
        retry_after=wait,
        said=said,
    )


def _refused(error: grpc.aio.AioRpcError) -> Failed:
    trailing = dict(error.trailing_metadata() or ())
    details = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info, violation = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    field = ""
    for detail in details.details:
        detail.Unpack(info)
        if detail.Unpack(violation):
            field = violation.field_violations[0].field
    return Failed(info.reason, error.code().name, details.message, raw=str(details), field=field)
