from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.v1.message_pb2 import Role, ToolKind
from dragoman.v1.tool_pb2 import TOOL_MODE_REQUIRED
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.scripted import ScriptedProvider
from tests.support.generation import Recording, chat, generate, start
from tests.support.upstream_server import script


async def play(model: str = "echo", *, incremental: bool = True, **fields: Any) -> Recording:
    return await generate(
        ScriptedProvider("s"), GenerationRequest(chat(script(**fields)), model, incremental=incremental)
    )


async def test_the_echo_is_cut_between_words() -> None:
    recording = await generate(ScriptedProvider("s"), GenerationRequest(chat("one  two\nthree "), "any"))
    assert [event.text_delta.text for event in recording.events][:5] == ["You", " said:", " one", "  two", "\nthree"]
    assert recording.text == "You said: one  two\nthree "
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (3, 6)


async def test_the_last_user_message_counts() -> None:
    spec = chat("first", "answer", script(text=["played"]))
    assert (await generate(ScriptedProvider("s"), GenerationRequest(spec, "m"))).text == "played"


async def test_tool_results_are_echoed() -> None:
    spec = chat(script(tool_calls=[{"name": "f"}]))
    message = spec.messages.add(role=Role.ROLE_TOOL)
    message.parts.add().tool_result.parts.add().text.text = "42"
    assert (await generate(ScriptedProvider("s"), GenerationRequest(spec, "m"))).text == "The tools said: 42"


async def test_other_parts_are_named() -> None:
    spec = chat("look")
    spec.messages[0].parts.add().image.data = b"abc"
    assert (
        await generate(ScriptedProvider("s"), GenerationRequest(spec, "m"))
    ).text == "You said: look [image: 3 bytes]"


async def test_batches_and_repeats() -> None:
    recording = await play(text=["a", "b"], repeat=5, batch=4)
    assert recording.text == "ab" * 5
    assert [len(batch.events) for batch in recording.batches] == [4, 4, 4]
    assert len((await play(text=["a"], repeat=50, incremental=False)).batches) == 1


async def test_nothing_to_say_is_an_empty_answer() -> None:
    assert (await play(usage=False)).kinds == ["choice_finished"]


async def test_a_forced_tool_is_called_with_arguments_that_follow_its_schema() -> None:
    spec = chat("go on")
    function = spec.tools.add().function
    function.name, function.parameters_json = (
        "f",
        '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}',
    )
    spec.tools.add().custom.name = "c"
    spec.tool_choice.mode = TOOL_MODE_REQUIRED
    provider = ScriptedProvider("s")
    assert [call[1:] for call in (await generate(provider, GenerationRequest(spec, "m"))).calls()] == [("f", '{"n":0}')]
    spec.tool_choice.tool.name = "c"
    recording = await generate(provider, GenerationRequest(spec, "m"))
    assert [call[1:] for call in recording.calls()] == [("c", "go on")]
    assert recording.events[0].tool_call_started.tool_kind == ToolKind.TOOL_KIND_CUSTOM
    spec.tool_choice.tool.name = "missing"
    with pytest.raises(InvalidRequest):
        provider.start(GenerationRequest(spec, "m"), Recording())


async def test_a_call_that_the_token_limit_cuts_is_still_completed() -> None:
    spec = chat(script(tool_calls=[{"name": "f", "arguments": ["a", "b", "c"]}, {"name": "g"}]))
    spec.sampling.max_output_tokens = 2
    recording = await generate(ScriptedProvider("s"), GenerationRequest(spec, "m"))
    assert [call[1:] for call in recording.calls()] == [("f", "ab")]
    assert recording.finished is not None
    assert recording.finished.finish_reason == 2


@pytest.mark.parametrize(
    "text",
    [
        "SCRIPT",
        "SCRIPT ",
        "SCRIPT {",
        "SCRIPT []",
        'SCRIPT {"txt": ["a"]}',
        'SCRIPT {"text": 3}',
        'SCRIPT {"delay": -1}',
    ],
)
async def test_a_wrong_script_is_refused(text: str) -> None:
    if text == "SCRIPT":
        recording = await generate(ScriptedProvider("s"), GenerationRequest(chat(text), "m"))
        assert recording.text == "You said: SCRIPT"
        return
    with pytest.raises(InvalidRequest, match="script"):
        ScriptedProvider("s").start(GenerationRequest(chat(text), "m"), Recording())


async def test_a_schema_beyond_it_is_refused() -> None:
    spec = chat("x")
    spec.response_format.json_schema.schema_json = '{"type":"string","pattern":"a"}'
    with pytest.raises(UnsupportedFeature) as raised:
        ScriptedProvider("s").start(GenerationRequest(spec, "m"), Recording())
    assert raised.value.field == "response_format.json_schema.schema_json"
    spec.response_format.json_schema.schema_json = "{"
    with pytest.raises(InvalidRequest):
        ScriptedProvider("s").start(GenerationRequest(spec, "m"), Recording())


async def test_delays_are_kept() -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await play(text=["a", "b", "c"], first_delay=0.03, delay=0.02)
    assert loop.time() - begin >= 0.069
    begin = loop.time()
    await play(text=["a", "b", "c"], first_delay=0.03, delay=0.02, incremental=False)
    assert loop.time() - begin >= 0.069


async def test_a_hanging_script_ends_only_when_cancelled() -> None:
    generation, recording = start(ScriptedProvider("s"), GenerationRequest(chat(script(text=["a"], hang=True)), "m"))
    await recording.events_reach(1)
    await asyncio.sleep(0.05)
    assert recording.ends == []
    generation.cancel()
    failure = await recording.end()
    assert failure is not None
    assert recording.kinds == ["text_delta"]
