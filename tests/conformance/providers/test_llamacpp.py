"""The embedded model as it is: a real model, loaded once for this file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import pytest_asyncio

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.message_pb2 import Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman.v1.tool_pb2 import GrammarSyntax
from dragoman_server.errors import DragomanError, InvalidRequest, NotFound, ProviderError, Unavailable, Unimplemented
from dragoman_server.providers.base import EventBatch, Generation, GenerationFailed, GenerationRequest, iterate
from dragoman_server.providers.llamacpp import LlamaCppProvider
from tests.support.model import MODEL, MODEL_ID, models_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dragoman.v1.failure_pb2 import Failure

__all__ = ["models_dir"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARALLEL = 2
MAX_WAITING = 4
CONTEXT = 512
LONG_PROMPT = "one two three four five six seven eight nine ten " * 44
"""Nearly fills the context: seconds of reading."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(models_dir: Path) -> AsyncIterator[LlamaCppProvider]:
    provider = LlamaCppProvider(
        "local", MODEL, models_dir, context_tokens=CONTEXT, parallel=PARALLEL, max_waiting=MAX_WAITING
    )
    await provider.open()
    yield provider
    await provider.close()


def chat(text: str = "Say hello.", **fields: Any) -> ChatSpec:
    """A chat with one question; greedy, so that answers are alike on every machine."""
    spec = ChatSpec(messages=[Message(role=Role.ROLE_USER, parts=[Part(text=TextPart(text=text))])], **fields)
    if not spec.sampling.HasField("temperature"):
        spec.sampling.temperature = 0
    if not spec.sampling.HasField("max_output_tokens"):
        spec.sampling.max_output_tokens = 24
    return spec


def ask(spec: ChatSpec, **fields: Any) -> GenerationRequest:
    return GenerationRequest(spec, MODEL_ID, **fields)


async def events(provider: LlamaCppProvider, spec: ChatSpec, **fields: Any) -> list[RunEvent]:
    async with asyncio.timeout(60):
        return [event async for batch in iterate(provider, ask(spec, **fields)) for event in batch.events]


def text_of(all_events: list[RunEvent]) -> str:
    return "".join(event.text_delta.text for event in all_events)


def finish_of(all_events: list[RunEvent]) -> FinishReason:
    [finish] = [event.choice_finished.finish_reason for event in all_events if event.HasField("choice_finished")]
    return finish


async def answer(provider: LlamaCppProvider, spec: ChatSpec) -> str:
    return text_of(await events(provider, spec))


async def failure(provider: LlamaCppProvider, spec: ChatSpec) -> Failure:
    """Returns why a generation fails, which must be before its first event."""
    with pytest.raises(GenerationFailed) as caught:
        assert await events(provider, spec) == []
    return caught.value.failure


class RecordingSink:
    """Records a generation, and checks that it keeps the rules of a sink."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.failure: Failure | None = None
        self.ends = 0
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def on_events(self, batch: EventBatch) -> None:
        assert asyncio.get_running_loop() is self.loop
        assert batch.events
        assert not self.ends
        self.events += batch.events
        self.began.set()

    def on_text(self, text: str) -> None:
        raise AssertionError("this provider makes batches")

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        raise AssertionError("this provider makes batches")

    def on_end(self, failure: Failure | None) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.ends += 1
        self.failure = failure
        self.ended.set()

    async def wait(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(60):
            await event.wait()


async def test_an_answer_is_text_a_finish_and_the_usage(provider: LlamaCppProvider) -> None:
    got = await events(provider, chat(sampling=Sampling(max_output_tokens=60)), choice_index=3)
    assert text_of(got).startswith("Hello")
    kinds = [event.WhichOneof("kind") for event in got]
    assert kinds == ["text_delta"] * (len(got) - 2) + ["choice_finished", "usage_reported"]
    assert {event.text_delta.choice_index for event in got[:-2]} == {3}
    assert got[-2].choice_finished.choice_index == 3
    assert finish_of(got) == FinishReason.FINISH_REASON_STOP
    usage = got[-1].usage_reported.last_call
    assert usage.input_tokens > 10
    assert 1 < usage.output_tokens < 60
    assert not got[-1].usage_reported.HasField("run_total")


async def test_an_answer_nobody_reads_along_comes_in_one_batch(provider: LlamaCppProvider) -> None:
    async with asyncio.timeout(60):
        batches = [batch async for batch in iterate(provider, ask(chat(), incremental=False))]
    assert len(batches) == 1
    assert text_of(list(batches[0].events)) == await answer(provider, chat())


async def test_the_same_seed_gives_the_same_text(provider: LlamaCppProvider) -> None:
    def spec(seed: int) -> ChatSpec:
        return chat("Tell me a story.", sampling=Sampling(temperature=1.5, seed=seed, max_output_tokens=16))

    texts = [await answer(provider, spec(seed)) for seed in (7, 7, 8, -1, -1)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4], "llama.cpp's marker for a random seed must not come through"


async def test_without_temperature_the_text_is_the_same_twice(provider: LlamaCppProvider) -> None:
    spec = chat("Tell me a story.", sampling=Sampling(seed=1))
    assert await answer(provider, spec) == await answer(provider, spec)


async def test_sampling_reaches_the_model(provider: LlamaCppProvider) -> None:
    plain = chat()
    greedy = await answer(provider, plain)
    first = await events(provider, chat(sampling=Sampling(logprobs=True, top_logprobs=2, max_output_tokens=1)))
    assert finish_of(first) == FinishReason.FINISH_REASON_LENGTH
    assert first[-1].usage_reported.last_call.output_tokens == 1
    only_the_likeliest = Sampling(temperature=2, top_k=1)
    assert await answer(provider, chat(sampling=only_the_likeliest)) == greedy
    assert await answer(provider, chat(sampling=Sampling(temperature=2, top_p=0.0001, top_k=0))) == greedy
    assert await answer(provider, chat(sampling=Sampling(temperature=2, min_p=1.0, top_k=0))) == greedy
    repeating = chat("Repeat the word dog forever.")
    calm = chat("Repeat the word dog forever.", sampling=Sampling(repetition_penalty=1.8))
    assert await answer(provider, repeating) != await answer(provider, calm)
    for penalty in (Sampling(frequency_penalty=2), Sampling(presence_penalty=2)):
        penalised = chat("Repeat the word dog forever.", sampling=penalty)
        assert await answer(provider, penalised) != await answer(provider, repeating)


async def test_a_biased_token_never_comes(provider: LlamaCppProvider) -> None:
    assert (await answer(provider, chat())).startswith("Hello")
    hello = 19556  # of this model's vocabulary
    assert not (await answer(provider, chat(sampling=Sampling(logit_bias={hello: -100})))).startswith("Hello")


async def test_a_stop_text_ends_the_answer_and_is_named(provider: LlamaCppProvider) -> None:
    whole = await answer(provider, chat())
    stop = whole.split()[2]
    got = await events(provider, chat(sampling=Sampling(stop=["never this", stop])))
    assert text_of(got) == whole[: whole.index(stop)]
    [finished] = [event.choice_finished for event in got if event.HasField("choice_finished")]
    assert finished.finish_reason == FinishReason.FINISH_REASON_STOP
    assert finished.stop_sequence == stop


async def test_log_probabilities(provider: LlamaCppProvider) -> None:
    got = await events(provider, chat(sampling=Sampling(logprobs=True, top_logprobs=3, max_output_tokens=5)))
    tokens = [token for event in got for token in event.text_delta.logprobs]
    assert len(tokens) == 5
    assert "".join(token.token for token in tokens) == text_of(got)
    assert b"".join(token.token_bytes for token in tokens) == text_of(got).encode()
    for token in tokens:
        assert [token.token, token.logprob] == [token.top[0].token, token.top[0].logprob]
        assert len(token.top) == 3
        assert sum(math.exp(top.logprob) for top in token.top) <= 1.0001
    got = await events(provider, chat(sampling=Sampling(logprobs=True, max_output_tokens=2)))
    assert [len(event.text_delta.logprobs) for event in got if event.HasField("text_delta")] == [1, 1]
    assert not any(token.top for event in got for token in event.text_delta.logprobs)


async def test_an_answer_follows_a_json_schema(provider: LlamaCppProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 20, "maximum": 60}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for question in ("Invent a person.", "Write a person as JSON in a markdown block that starts with ```json"):
        spec = chat(question, sampling=Sampling(max_output_tokens=80))
        spec.response_format.json_schema.name = "person"
        spec.response_format.json_schema.strict = True
        spec.response_format.json_schema.schema_json = json.dumps(schema)
        got = await events(provider, spec)
        assert finish_of(got) == FinishReason.FINISH_REASON_STOP
        jsonschema.validate(json.loads(text_of(got)), schema)


async def test_an_answer_is_a_json_object(provider: LlamaCppProvider) -> None:
    spec = chat("Name a color as JSON.", sampling=Sampling(max_output_tokens=100, seed=3))
    spec.response_format.json_object.SetInParent()
    text = await answer(provider, spec)
    assert text.lstrip().startswith("{")


def with_grammar(definition: str) -> ChatSpec:
    spec = chat()
    spec.response_format.grammar.syntax = GrammarSyntax.GRAMMAR_SYNTAX_GBNF
    spec.response_format.grammar.definition = definition
    return spec


async def test_an_answer_follows_a_grammar(provider: LlamaCppProvider) -> None:
    assert await answer(provider, with_grammar('root ::= "maybe" | "perhaps"')) in {"maybe", "perhaps"}


async def test_characters_of_several_tokens_come_whole(provider: LlamaCppProvider) -> None:
    text = "ᚠ😃é👩‍🚀漢"
    got = await events(provider, with_grammar(f'root ::= "{text}"'))
    assert text_of(got) == text
    assert got[-1].usage_reported.last_call.output_tokens > len(text)


async def test_a_character_cut_off_by_the_limit_is_left_out(provider: LlamaCppProvider) -> None:
    spec = with_grammar('root ::= "aᚠᚠᚠᚠ"')
    spec.sampling.max_output_tokens = 3
    got = await events(provider, spec)
    assert finish_of(got) == FinishReason.FINISH_REASON_LENGTH
    assert "aᚠᚠᚠᚠ".startswith(text_of(got))


async def test_a_schema_that_cannot_be_converted_is_the_callers_fault(provider: LlamaCppProvider) -> None:
    spec = chat()
    spec.response_format.json_schema.name = "x"
    for schema in ({"type": "colour"}, {"$ref": "#/$defs/missing"}, {"$ref": "https://127.0.0.1/x.json"}):
        spec.response_format.json_schema.schema_json = json.dumps(schema)
        got = await failure(provider, spec)
        assert got.reason == Reason.INVALID_REQUEST
        assert got.field == "response_format.json_schema.schema_json"
        assert not got.retryable


@pytest.mark.parametrize("schema", ['{"const": "\\ud800"}', '{"type": "integer", "minimum": 1' + "0" * 40 + "}"])
async def test_a_schema_that_cannot_be_passed_on_is_the_callers_fault(provider: LlamaCppProvider, schema: str) -> None:
    spec = chat()
    spec.response_format.json_schema.name = "x"
    spec.response_format.json_schema.schema_json = schema
    assert (await failure(provider, spec)).reason == Reason.INVALID_REQUEST


async def test_a_grammar_that_cannot_be_read_is_the_callers_fault(provider: LlamaCppProvider) -> None:
    got = await failure(provider, with_grammar("root := oops"))
    assert got.reason == Reason.INVALID_REQUEST
    assert got.field == "response_format.grammar.definition"


async def test_a_prompt_that_does_not_fit_fails_with_the_numbers(provider: LlamaCppProvider) -> None:
    got = await failure(provider, chat("hello " * 1500))
    assert got.reason == Reason.CONTEXT_LENGTH_EXCEEDED
    assert got.field == "messages"
    assert int(got.metadata["prompt_tokens"]) > 1500
    assert got.metadata["context_tokens"] == str(CONTEXT) == str(provider.models[0].context_length)
    assert got.metadata["prompt_tokens"] in got.message
    assert not got.retryable


async def test_an_answer_that_fills_the_context_ends_with_length(provider: LlamaCppProvider) -> None:
    spec = chat(LONG_PROMPT, sampling=Sampling(max_output_tokens=2000))
    spec.response_format.grammar.syntax = GrammarSyntax.GRAMMAR_SYNTAX_GBNF
    spec.response_format.grammar.definition = 'root ::= "na " root'
    got = await events(provider, spec)
    assert finish_of(got) == FinishReason.FINISH_REASON_LENGTH
    usage = got[-1].usage_reported.last_call
    assert CONTEXT - 2 <= usage.input_tokens + usage.output_tokens <= CONTEXT + 1


async def test_more_requests_than_slots_all_get_their_answer(provider: LlamaCppProvider) -> None:
    texts = await asyncio.gather(*(answer(provider, chat(sampling=Sampling(seed=1))) for _ in range(2 * PARALLEL)))
    assert all(text.startswith("Hello") for text in texts)


async def test_a_request_too_many_is_refused(provider: LlamaCppProvider) -> None:
    generations: list[Generation] = []

    def fill() -> None:
        for _ in range(PARALLEL + MAX_WAITING + 1):
            generations.append(provider.start(ask(chat(LONG_PROMPT)), RecordingSink()))  # noqa: PERF401

    with pytest.raises(Unavailable) as caught:
        fill()
    assert len(generations) >= MAX_WAITING
    assert caught.value.reason == Reason.OVERLOADED
    assert caught.value.retryable
    generations[-1].cancel()
    generations.append(provider.start(ask(chat()), RecordingSink()))  # a cancelled request makes room at once
    for generation in generations:
        generation.cancel()
    assert (await answer(provider, chat())).startswith("Hello")


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("moment", ["at once", "while it waits", "while the prompt is read", "while it writes"])
async def test_cancelling(provider: LlamaCppProvider, moment: str) -> None:
    others = [RecordingSink() for _ in range(PARALLEL if moment == "while it waits" else 0)]
    before = [provider.start(ask(chat(LONG_PROMPT)), other) for other in others]
    sink = RecordingSink()
    long = chat(LONG_PROMPT) if moment == "while the prompt is read" else chat("Tell me a very long story.")
    long.sampling.max_output_tokens = 400
    generation = provider.start(ask(long), sink)
    if moment == "while the prompt is read":
        await asyncio.sleep(0.2)
        assert not sink.events
    elif moment == "while it writes":
        await sink.wait(sink.began)
    generation.cancel()
    seen = (len(sink.events), sink.ends)
    assert seen[1] == 0, "not from inside"
    await turns()
    assert sink.failure is not None
    assert sink.failure.reason == Reason.CANCELLED
    for other in before:
        other.cancel()
    generation.cancel()
    generation.pause()
    generation.resume()
    # The slots are free again: as many answers as there are slots, while nothing more reaches the cancelled one.
    await asyncio.gather(*(answer(provider, chat()) for _ in range(PARALLEL)))
    assert (len(sink.events), sink.ends) == (seen[0], 1)


async def test_cancelling_after_the_end_changes_nothing(provider: LlamaCppProvider) -> None:
    sink = RecordingSink()
    generation = provider.start(ask(chat()), sink)
    await sink.wait(sink.ended)
    generation.cancel()
    await turns()
    assert (sink.ends, sink.failure) == (1, None)


async def test_a_sink_may_cancel_while_it_is_called(provider: LlamaCppProvider) -> None:
    class Impatient(RecordingSink):
        def on_events(self, batch: EventBatch) -> None:
            super().on_events(batch)
            generation.cancel()

    sink = Impatient()
    generation = provider.start(ask(chat()), sink)
    await sink.wait(sink.ended)
    assert sink.failure is not None
    assert sink.failure.reason == Reason.CANCELLED
    assert len(sink.events) < 10


async def test_a_paused_generation_holds_back_and_loses_nothing(provider: LlamaCppProvider) -> None:
    sink = RecordingSink()
    generation = provider.start(ask(chat()), sink)
    generation.pause()
    await answer(provider, chat())  # time enough for the paused one to be generated
    assert not sink.events
    assert not sink.ends
    generation.resume()
    assert not sink.events, "not from inside"
    await sink.wait(sink.ended)
    assert text_of(sink.events) == await answer(provider, chat())
    assert sink.failure is None


async def test_a_paused_generation_can_be_cancelled(provider: LlamaCppProvider) -> None:
    sink = RecordingSink()
    generation = provider.start(ask(chat()), sink)
    await sink.wait(sink.began)
    generation.pause()
    generation.cancel()
    await turns()
    assert sink.failure is not None
    assert sink.failure.reason == Reason.CANCELLED


async def test_while_a_long_prompt_is_read_others_go_on(provider: LlamaCppProvider) -> None:
    reading, writing = RecordingSink(), RecordingSink()
    writer = provider.start(ask(chat("Tell me a long story.", sampling=Sampling(max_output_tokens=200))), writing)
    await writing.wait(writing.began)
    reader = provider.start(ask(chat("again " + LONG_PROMPT)), reading)
    seen = len(writing.events)
    async with asyncio.timeout(60):
        while len(writing.events) < seen + 4:
            await asyncio.sleep(0.01)
    assert not reading.events, "the prompt was read in one go"
    reader.cancel()
    writer.cancel()


async def test_nothing_reaches_the_sink_before_start_returns(provider: LlamaCppProvider) -> None:
    sink = RecordingSink()
    generation = provider.start(ask(chat()), sink)
    assert (sink.events, sink.ends) == ([], 0)
    generation.cancel()
    assert (sink.events, sink.ends) == ([], 0)


async def test_another_model_is_not_found(provider: LlamaCppProvider) -> None:
    with pytest.raises(NotFound) as caught:
        provider.start(GenerationRequest(chat(), "gpt-5"), RecordingSink())
    assert caught.value.reason == Reason.MODEL_NOT_FOUND


async def test_the_model_in_the_catalogue(provider: LlamaCppProvider) -> None:
    [model] = provider.models
    assert (model.id, model.provider, model.ready) == ("smollm2-135m-instruct", "local", True)
    can = model.capabilities
    assert (can.json_schema, can.json_object, can.logprobs) == (True, True, True)
    assert (can.tools, can.reasoning, can.vision) == (False, False, False)


async def test_it_is_not_ready_before_it_is_open_nor_after_it_is_closed(
    models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    caught_signals = _caught_signals()
    provider = LlamaCppProvider("mine", MODEL, models_dir, context_tokens=500, parallel=1)
    assert not provider.ready
    with pytest.raises(Unavailable) as before:
        provider.start(ask(chat()), RecordingSink())
    assert before.value.reason == Reason.MODEL_NOT_READY
    await provider.open()
    assert provider.ready
    assert provider.models[0].context_length == 512
    assert _caught_signals() == caught_signals
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not _listening_tcp_sockets()
    running, waiting = RecordingSink(), RecordingSink()
    provider.start(ask(chat("Tell me a story.", sampling=Sampling(max_output_tokens=400))), running)
    provider.start(ask(chat()), waiting)
    await running.wait(running.began)
    async with asyncio.timeout(60):
        await provider.close()
    for sink in (running, waiting):
        assert sink.failure is not None
        assert (sink.ends, sink.failure.reason) == (1, Reason.CANCELLED)
    assert not provider.ready
    with pytest.raises(Unavailable) as after:
        provider.start(ask(chat()), RecordingSink())
    assert after.value.reason == Reason.SHUTTING_DOWN
    assert tuple(capfd.readouterr()) == ("", ""), "llama.cpp is silent"


def _caught_signals() -> str:
    """The signals with a handler of their own, as the system knows them."""
    if sys.platform != "linux":
        return ""
    with open("/proc/self/status") as status:
        return next(line for line in status if line.startswith("SigCgt"))


def _listening_tcp_sockets() -> set[str]:
    """The TCP sockets on which this process listens."""
    if sys.platform != "linux":
        return set()
    mine = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    with open("/proc/self/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"} & mine


async def test_a_provider_that_was_never_open_can_be_closed(models_dir: Path) -> None:
    await LlamaCppProvider("mine", MODEL, models_dir).close()


async def test_it_can_be_closed_while_it_loads(models_dir: Path) -> None:
    provider = LlamaCppProvider("mine", MODEL, models_dir, context_tokens=256, parallel=1)
    opening = asyncio.create_task(provider.open())
    await asyncio.sleep(0)
    opening.cancel()
    async with asyncio.timeout(60):
        await provider.close()
    assert not provider.ready


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, NotFound, "dragoman models pull"),
        (b"hello", InvalidRequest, "not a GGUF model"),
        (b"GGUF" + bytes(100), ProviderError, "cannot load"),
    ],
)
async def test_what_cannot_be_loaded_is_explained(
    models_dir: Path, tmp_path: Path, content: bytes | None, error: type[DragomanError], says: str
) -> None:
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    provider = LlamaCppProvider("mine", str(file), tmp_path)
    with pytest.raises(error, match=says):
        await provider.open()
    assert not provider.ready
    await provider.close()


async def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    provider = LlamaCppProvider("mine", MODEL, tmp_path)
    with pytest.raises(Unimplemented, match=r"pip install 'dragoman\[local\]'"):
        await provider.open()
    await provider.close()
