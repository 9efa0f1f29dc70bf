"""A provider without a model: it plays the script that the request brings, or else echoes the request.

The script is the text of the last user message, if that is `SCRIPT ` and a JSON object, for example
`SCRIPT {"text": ["Hel", "lo"], "delay": 0.02}`; `Script` lists what it may say. Everything else is answered by
`You said: ...`, word by word; a conversation that ends with tool results is answered by an echo of those.
Vectors are made of hashes (see `scripted_vectors`); of a script, only `first_delay`, `hang`, `usage` and `fail_before`
matter to them.

Nothing is random. Tokens are counted so: in the prompt, a token is a word between white space; in the answer, it is one
delta of text, thoughts, refusal or arguments. Pieces of a script are sent as they are, one delta each.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.embedding_service_pb2 import EmbedResponse
from dragoman.v1.event_pb2 import FinishReason, RunEvent, TokenLogprob, TopLogprob
from dragoman.v1.message_pb2 import Role, ToolKind
from dragoman.v1.sampling_pb2 import MODALITY_IMAGE, MODALITY_TEXT
from dragoman.v1.tool_pb2 import TOOL_MODE_REQUIRED
from dragoman.v1.usage_pb2 import OutputTokenDetails, Usage
from dragoman_server.errors import ContextLengthExceeded, InvalidRequest, ProviderError, Unavailable, UnsupportedFeature
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.schema_sample import minimal_instance
from dragoman_server.providers.scripted_vectors import DIMENSIONS, MAX_DIMENSIONS, MAX_WORDS, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragoman.v1.embedding_service_pb2 import EmbedRequest
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.message_pb2 import Message, Part
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman.v1.tool_pb2 import Tool
    from dragoman_server.providers.base import GenerationRequest, GenerationSink

SCRIPT_MARK = "SCRIPT "

DEMO_MODELS = {"echo": 0.0, "echo-slow": 0.05}
"""The listed models, and the seconds between two batches of each. Any other name is served like `echo`."""

EMBEDDING_MODEL = "embed"
"""The listed model that makes vectors, and nothing else."""

Delay = Annotated[float, Field(ge=0, le=3600)]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptedFailure(_Closed):
    """A failure to end with."""

    reason: Reason = Reason.PROVIDER_FAILED
    message: str = "the script says so"
    retryable: bool = True
    retry_after: Annotated[float, Field(ge=0)] | None = None

    def to_error(self) -> ProviderError:
        """Returns the failure as an exception."""
        return ProviderError(self.message, reason=self.reason, retryable=self.retryable, retry_after=self.retry_after)

    def to_failure(self) -> Failure:
        """Returns the failure as the sink gets it."""
        return self.to_error().to_failure()


class ScriptedFailureAfter(ScriptedFailure):
    """A failure after some events."""

    after: Annotated[int, Field(ge=0)]


class ScriptedCall(_Closed):
    """A tool call."""

    name: str
    arguments: tuple[str, ...] = ()
    id: str = ""
    custom: bool = False


class ScriptedUsage(_Closed):
    """Counts to report in place of the counted ones."""

    input_tokens: Annotated[int, Field(ge=0)]
    output_tokens: Annotated[int, Field(ge=0)]


class Script(_Closed):
    """What to play: thoughts, refusal, text and calls in this order, then the end."""

    reasoning: tuple[str, ...] = ()
    """Thoughts, one delta each."""
    refusal: tuple[str, ...] = ()
    """Refusal, one delta each."""
    text: tuple[str, ...] = ()
    """Text, one delta each."""
    repeat: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How many times the text is said."""
    tool_calls: tuple[ScriptedCall, ...] = ()
    """Tool calls."""
    batch: Annotated[int, Field(ge=1)] = 1
    """Events of a batch."""
    first_delay: Delay = 0
    """Seconds before the first batch."""
    delay: Delay | None = None
    """Seconds between two batches; unset means the pace of the model."""
    logprobs: bool | None = None
    """Whether text and refusal carry log probabilities; unset means as the request says."""
    usage: ScriptedUsage | Literal[False] | None = None
    """Counts to report; false reports none, unset what was counted."""
    finish: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    """The finish reason; unset means what fits."""
    fail_before: ScriptedFailure | None = None
    """Fails after `first_delay`, without any event."""
    fail_after: Annotated[int, Field(ge=0)] | ScriptedFailureAfter | None = None
    """Fails after that many events."""
    drop_after: Annotated[int, Field(ge=0)] | None = None
    """Breaks off after that many events, as if the connection were lost."""
    hang: bool = False
    """Stays silent after the last delta, until it is cancelled."""


class _Step(NamedTuple):
    """One event to come; `detail` is the name of a call that starts."""

    kind: Literal["reasoning", "refusal", "text", "call", "arguments", "call_end"]
    text: str = ""
    call_index: int = 0
    detail: ScriptedCall | None = None


_FINISH = {
    "stop": FinishReason.FINISH_REASON_STOP,
    "length": FinishReason.FINISH_REASON_LENGTH,
    "tool_calls": FinishReason.FINISH_REASON_TOOL_CALLS,
    "content_filter": FinishReason.FINISH_REASON_CONTENT_FILTER,
}
_CONTENT = frozenset({"reasoning", "refusal", "text", "arguments"})


class ScriptedProvider:
    """The scripted provider; see the module's text.

    Args:
        name: The configured name.
    """

    serves_any = True
    ready = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.models: Sequence[Model] = (*(_demo_model(model_id) for model_id in DEMO_MODELS), _embedding_model())
        self._running: set[_Performance] = set()
        self._closed = False

    async def open(self) -> None:
        """Does nothing: there is nothing to load."""

    async def close(self) -> None:
        """Cancels what still runs."""
        self._closed = True
        for performance in tuple(self._running):
            performance.cancel()
        await asyncio.sleep(0)  # the turn in which the sinks hear of it

    def start(self, request: GenerationRequest, sink: GenerationSink) -> _Performance:
        """Starts a generation.

        Raises:
            InvalidRequest: If the script is wrong.
            UnsupportedFeature: If the request asks for a form of answer that cannot be made without a model.
            Unavailable: If the provider is closed.
        """
        if self._closed:
            raise Unavailable("the provider is closed", reason=Reason.SHUTTING_DOWN)
        if request.model == EMBEDDING_MODEL:
            raise UnsupportedFeature(f"the model {EMBEDDING_MODEL!r} makes vectors only", field="model")
        performance = _Performance(request, sink, self._running)
        self._running.add(performance)
        return performance

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        """Turns texts into vectors. An input may be a script.

        Raises:
            InvalidRequest: If a script is wrong.
            UnsupportedFeature: If the model is listed as one that chats, or the request names a task or a great length.
            ContextLengthExceeded: If an input has too many words.
            Unavailable: If the provider is closed.
            ProviderError: If a script says so.
        """
        if self._closed:
            raise Unavailable("the provider is closed", reason=Reason.SHUTTING_DOWN)
        if model in DEMO_MODELS:
            raise UnsupportedFeature(f"the model {model!r} makes no vectors", field="model")
        if request.task_type:
            raise UnsupportedFeature("the scripted provider knows no tasks", field="task_type")
        if request.dimensions > MAX_DIMENSIONS:
            raise UnsupportedFeature(f"vectors have at most {MAX_DIMENSIONS} dimensions", field="dimensions")
        response = EmbedResponse()
        for index, item in enumerate(request.inputs):
            words = [str(token) for token in item.tokens.ids] or item.text.split()
            if len(words) > MAX_WORDS:
                raise ContextLengthExceeded(
                    f"inputs[{index}] has {len(words)} words, but at most {MAX_WORDS} are taken",
                    field=f"inputs[{index}]",
                )
            await asyncio.sleep(0)  # others have their turn between two inputs
            response.embeddings.append(vector_of(words, request.dimensions or DIMENSIONS))
            counted = len(words)
            if item.text.startswith(SCRIPT_MARK):
                script = _parsed(item.text, f"inputs[{index}]")
                await asyncio.sleep(script.first_delay)
                if script.hang:
                    await asyncio.Event().wait()
                if script.fail_before is not None:
                    raise script.fail_before.to_error()
                if script.usage is not None:
                    counted = script.usage.input_tokens if script.usage else 0
            response.usage.input_tokens += counted
        return response


def _embedding_model() -> Model:
    return Model(
        id=EMBEDDING_MODEL,
        owner="dragoman",
        context_length=MAX_WORDS,
        input_modalities=[MODALITY_TEXT],
        capabilities=ModelCapabilities(embeddings=True),
        ready=True,
    )


def _demo_model(model_id: str) -> Model:
    return Model(
        id=model_id,
        owner="dragoman",
        context_length=1_000_000,
        input_modalities=[MODALITY_TEXT, MODALITY_IMAGE],
        output_modalities=[MODALITY_TEXT],
        capabilities=ModelCapabilities(
            chat=True, tools=True, json_schema=True, json_object=True, logprobs=True, reasoning=True, vision=True
        ),
        ready=True,
    )


class _Performance:
    """One generation: a list of steps, and a timer that plays the next batch of them."""

    def __init__(self, request: GenerationRequest, sink: GenerationSink, running: set[_Performance]) -> None:
        spec = request.spec
        script = _script(spec)
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._running = running
        self._script = script
        self._incremental = request.incremental
        self._choice = request.choice_index
        self._call_prefix = f"call_{len(spec.messages)}_{request.choice_index}"
        self._logprobs = spec.sampling.logprobs if script.logprobs is None else script.logprobs
        self._top_logprobs = spec.sampling.top_logprobs
        self._steps, self._finish, self._stop_sequence = _plan(script, spec)
        self._usage = _usage(script, spec, self._steps)
        self._break_at, self._break_with = _break(script, len(self._steps))
        self._next = 0
        self._paused = False
        self._due = False  # the timer fired while paused
        self._ended = False
        self._delay = DEMO_MODELS.get(request.model, 0.0) if script.delay is None else script.delay
        self._batch = script.batch
        first_delay = script.first_delay
        if not request.incremental:  # as slow as the stream, but in one piece
            batches = -(-min(len(self._steps), self._break_at) // self._batch)
            first_delay += self._delay * max(0, batches - 1)
            self._batch = len(self._steps) + 1
            if self._break_with is not None:
                self._break_at = 0
        self._timer: asyncio.Handle = self._later(first_delay)

    def cancel(self) -> None:
        """Stops at once."""
        if not self._ended:
            self._timer.cancel()
            self._ended = True
            failure = ProviderError("the generation was cancelled", reason=Reason.CANCELLED, retryable=False)
            self._loop.call_soon(self._end, failure.to_failure())

    def pause(self) -> None:
        """Stops playing, after the batch that is being played."""
        self._paused = True

    def resume(self) -> None:
        """Goes on where it stopped."""
        self._paused = False
        if self._due and not self._ended:
            self._due = False
            self._timer = self._loop.call_soon(self._play)

    @property
    def usage_so_far(self) -> Usage | None:
        """What was played so far; of counts that the script brings, the one of the prompt."""
        if self._usage is None or not self._next:
            return None
        written = sum(step.kind in _CONTENT for step in self._steps[: self._next]) if self._script.usage is None else 0
        return Usage(input_tokens=self._usage.input_tokens, output_tokens=written)

    def _later(self, delay: float) -> asyncio.Handle:
        return self._loop.call_later(delay, self._play) if delay else self._loop.call_soon(self._play)

    def _play(self) -> None:
        if self._paused:
            self._due = True
            return
        if self._is_plain():
            self._play_whole()
            return
        start = self._next
        end = self._next = min(start + self._batch, len(self._steps), self._break_at)
        batch = EventBatch()
        for step in self._steps[start:end]:
            self._write(step, batch.events.add())
        if end < min(len(self._steps), self._break_at):
            self._sink.on_events(batch)
            if not self._ended:  # the sink may have cancelled
                self._timer = self._later(self._delay)
            return
        complete = self._break_with is None and not self._script.hang
        if complete:
            self._write_end(batch)
        if batch.events:
            self._sink.on_events(batch)
        if not self._ended and (complete or self._break_with is not None):
            self._ended = True
            self._end(self._break_with)

    def _is_plain(self) -> bool:
        """Whether all of it is a whole answer of the kind that has a short way; see `GenerationSink.on_whole`."""
        if self._incremental or self._choice or self._logprobs or self._stop_sequence:
            return False
        if self._break_with is not None or self._script.hang:
            return False
        return len(self._steps) == 1 and self._steps[0].kind == "text" and self._steps[0].text != ""

    def _play_whole(self) -> None:
        self._ended = True
        self._forget()
        usage = None if self._usage is None else self._usage.SerializeToString()
        self._sink.on_whole(self._steps[0].text, self._finish, usage)

    def _write(self, step: _Step, event: RunEvent) -> None:
        match step.kind:
            case "text":
                event.text_delta.choice_index = self._choice
                event.text_delta.text = step.text
                if self._logprobs:
                    event.text_delta.logprobs.append(_logprob(step.text, self._top_logprobs))
            case "reasoning":
                event.reasoning_delta.choice_index = self._choice
                event.reasoning_delta.text = step.text
            case "refusal":
                event.refusal_delta.choice_index = self._choice
                event.refusal_delta.text = step.text
                if self._logprobs:
                    event.refusal_delta.logprobs.append(_logprob(step.text, self._top_logprobs))
            case "call":
                self._write_call(step, event)
            case "arguments":
                event.tool_call_arguments_delta.choice_index = self._choice
                event.tool_call_arguments_delta.call_index = step.call_index
                event.tool_call_arguments_delta.arguments = step.text
            case "call_end":
                event.tool_call_completed.choice_index = self._choice
                event.tool_call_completed.call_index = step.call_index

    def _write_call(self, step: _Step, event: RunEvent) -> None:
        call, started = step.detail, event.tool_call_started
        if call is None:
            raise AssertionError("a call starts without a call")
        started.choice_index = self._choice
        started.call_index = step.call_index
        started.call_id = call.id or f"{self._call_prefix}_{step.call_index}"
        started.name = call.name
        started.tool_kind = ToolKind.TOOL_KIND_CUSTOM if call.custom else ToolKind.TOOL_KIND_FUNCTION

    def _write_end(self, batch: EventBatch) -> None:
        finished = batch.events.add().choice_finished
        finished.choice_index = self._choice
        finished.finish_reason = self._finish
        finished.stop_sequence = self._stop_sequence
        if self._usage is not None:
            batch.events.add().usage_reported.last_call.CopyFrom(self._usage)

    def _end(self, failure: Failure | None) -> None:
        self._forget()
        self._sink.on_end(failure)

    def _forget(self) -> None:
        self._running.discard(self)
        self._timer.cancel()  # it refers to this generation: no cycle is left to the collector


def _script(spec: ChatSpec) -> Script:
    """Returns the script of the request, or one that echoes it."""
    _refuse_unsupported(spec)
    last = spec.messages[-1] if spec.messages else None
    if last is not None and last.role == Role.ROLE_TOOL:
        return Script(text=_words(f"The tools said: {_said(last)}"))
    text = next((_said(message) for message in reversed(spec.messages) if message.role == Role.ROLE_USER), "")
    if text.startswith(SCRIPT_MARK):
        return _parsed(text, "messages")
    if (call := _forced_call(spec, text)) is not None:
        return Script(tool_calls=(call,))
    return Script(text=_words(_formatted(spec, f"You said: {text}")))


def _parsed(text: str, field: str) -> Script:
    try:
        return Script.model_validate_json(text.removeprefix(SCRIPT_MARK))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "script"
        raise InvalidRequest(f"the script is wrong at {where}: {first['msg']}", field=field) from error


def _refuse_unsupported(spec: ChatSpec) -> None:
    if any(modality != MODALITY_TEXT for modality in spec.modalities):
        raise UnsupportedFeature("the scripted provider answers in text only", field="modalities")
    if spec.response_format.HasField("grammar"):
        raise UnsupportedFeature("the scripted provider follows no grammar", field="response_format.grammar")


def _formatted(spec: ChatSpec, echo: str) -> str:
    match spec.response_format.WhichOneof("kind"):
        case "json_object":
            return orjson.dumps({"echo": echo}).decode()
        case "json_schema":
            field = "response_format.json_schema.schema_json"
            return _instance(spec.response_format.json_schema.schema_json, field)
    return echo


def _forced_call(spec: ChatSpec, text: str) -> ScriptedCall | None:
    """Returns a call of the tool that must be called, with the least arguments that its schema accepts."""
    choice = spec.tool_choice
    names: Iterable[str] = ()
    match choice.WhichOneof("kind"):
        case "tool":
            names = (choice.tool.name,)
        case "allowed" if choice.allowed.mode == TOOL_MODE_REQUIRED:
            names = (tool.name for tool in choice.allowed.tools)
        case "mode" if choice.mode == TOOL_MODE_REQUIRED:
            names = (_tool_name(tool) for tool in spec.tools)
    name = next(iter(names), None)
    if name is None:
        return None
    for index, tool in enumerate(spec.tools):
        if _tool_name(tool) == name:
            if tool.HasField("custom"):
                return ScriptedCall(name=name, arguments=_words(text), custom=True)
            arguments = _instance(tool.function.parameters_json, f"tools[{index}].function.parameters_json")
            return ScriptedCall(name=name, arguments=(arguments,))
    raise InvalidRequest(f"there is no tool {name!r} to choose", field="tool_choice")


def _tool_name(tool: Tool) -> str:
    return tool.function.name if tool.HasField("function") else tool.custom.name


def _instance(schema_json: str, field: str) -> str:
    try:
        return orjson.dumps(minimal_instance(orjson.loads(schema_json) if schema_json else {})).decode()
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the schema is not JSON: {error}", field=field) from error
    except UnsupportedFeature as error:
        raise UnsupportedFeature(error.message, field=field) from error


def _said(message: Message) -> str:
    return " ".join(_part_text(part) for part in message.parts)


def _part_text(part: Part) -> str:
    match part.WhichOneof("kind"):
        case "text":
            return part.text.text
        case "tool_result":
            return " ".join(_part_text(inner) for inner in part.tool_result.parts)
        case "image":
            return f"[image: {part.image.url or f'{len(part.image.data)} bytes'}]"
        case "audio":
            return f"[audio: {part.audio.audio_id or f'{len(part.audio.data)} bytes'}]"
        case "file":
            return f"[file: {part.file.url or part.file.file_id or f'{len(part.file.data)} bytes'}]"
    return ""


def _words(text: str) -> tuple[str, ...]:
    """Cuts a text before each run of white space; the pieces joined are the text."""
    return tuple(re.findall(r"\s*\S+|\s+", text))


def _plan(script: Script, spec: ChatSpec) -> tuple[list[_Step], FinishReason, str]:
    """Returns the steps, the finish reason and the stop text that ended the answer, if one did."""
    text, stopped_by = _until_stop(list(script.text * script.repeat), spec.sampling.stop)
    steps = [_Step("reasoning", piece) for piece in script.reasoning]
    steps += [_Step("refusal", piece) for piece in script.refusal]
    steps += [_Step("text", piece) for piece in text]
    calls = () if stopped_by else script.tool_calls
    for index, call in enumerate(calls):
        steps.append(_Step("call", call_index=index, detail=call))
        steps += [_Step("arguments", piece, index) for piece in call.arguments]
        steps.append(_Step("call_end", call_index=index))
    finish = _FINISH[script.finish or ("tool_calls" if calls else "stop")]
    if spec.sampling.HasField("max_output_tokens"):
        whole = len(steps)
        steps = _limited(steps, spec.sampling.max_output_tokens)
        if len(steps) < whole:
            return steps, FinishReason.FINISH_REASON_LENGTH, ""
    return steps, finish, stopped_by


def _until_stop(pieces: list[str], stops: Sequence[str]) -> tuple[list[str], str]:
    whole = "".join(pieces) if stops else ""
    hits = [(position, stop) for stop in stops if stop and (position := whole.find(stop)) >= 0]
    if not hits:
        return pieces, ""
    left, stopped_by = min(hits)
    kept = []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept, stopped_by


def _limited(steps: list[_Step], tokens: int) -> list[_Step]:
    """Keeps the first tokens; a call that was begun is still ended."""
    kept: list[_Step] = []
    for step in steps:
        if step.kind in _CONTENT:
            tokens -= 1
        if tokens < 0:
            if kept and kept[-1].kind in ("call", "arguments"):
                kept.append(_Step("call_end", call_index=kept[-1].call_index))
            break
        kept.append(step)
    return kept


def _usage(script: Script, spec: ChatSpec, steps: Iterable[_Step]) -> Usage | None:
    if script.usage is False:
        return None
    if script.usage is not None:
        return Usage(input_tokens=script.usage.input_tokens, output_tokens=script.usage.output_tokens)
    thoughts = len(script.reasoning)
    written = 0
    for step in steps:
        written += step.kind in _CONTENT
    return Usage(
        input_tokens=sum(len(_said(message).split()) for message in spec.messages),
        output_tokens=written,
        output_details=OutputTokenDetails(reasoning_tokens=min(thoughts, written)) if thoughts else None,
    )


def _break(script: Script, steps: int) -> tuple[int, Failure | None]:
    """Returns after how many events to break off, and with which failure."""
    if script.fail_before is not None:
        return 0, script.fail_before.to_failure()
    if script.drop_after is not None:
        lost = ProviderError("the answer broke off without a finish", reason=Reason.PROVIDER_PROTOCOL)
        return script.drop_after, lost.to_failure()
    match script.fail_after:
        case int(after):
            return after, ScriptedFailure().to_failure()
        case ScriptedFailureAfter():
            return script.fail_after.after, script.fail_after.to_failure()
    return steps, None


def _logprob(token: str, top: int) -> TokenLogprob:
    """Returns a made-up log probability: the same for every token, the alternatives less likely."""
    return TokenLogprob(
        token=token,
        logprob=-0.25,
        token_bytes=token.encode(),
        top=[
            TopLogprob(token=name, logprob=-0.25 - rank, token_bytes=name.encode())
            for rank, name in enumerate([token, *(f"{token}~{rank}" for rank in range(1, top))][:top])
        ],
    )
