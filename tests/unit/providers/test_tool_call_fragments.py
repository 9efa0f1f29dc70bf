from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.errors import ProviderError
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.openai_chat.tool_calls import ToolCalls
from dragoman_server.providers.signatures import mark_of
from tests.support.generation import Recording

MARK = mark_of("google")


def fragment(**fields: Any) -> dict[str, Any]:
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return {**fields, "function": function} if function else fields


async def accumulate(*fragments: dict[str, Any], whole: bool = False) -> list[tuple[str, str, str]]:
    calls, batch = ToolCalls(0, MARK), EventBatch()
    for each in fragments:
        calls.add(each, batch, whole=whole)
    calls.complete(batch)
    recording = Recording(batches=[batch], starting=False)
    return recording.calls()


async def test_the_form_of_the_dialect() -> None:
    assert await accumulate(
        fragment(index=0, id="a", type="function", name="f", arguments=""),
        fragment(index=0, arguments='{"x"'),
        fragment(index=1, id="b", type="function", name="g", arguments="{}"),
        fragment(index=0, arguments=":1}"),
    ) == [("a", "f", '{"x":1}'), ("b", "g", "{}")]


async def test_all_calls_under_index_0() -> None:
    assert await accumulate(
        fragment(index=0, id="a", name="f", arguments="{"),
        fragment(index=0, arguments="}"),
        fragment(index=0, id="b", name="f", arguments="{"),
        fragment(index=0, arguments="}"),
    ) == [("a", "f", "{}"), ("b", "f", "{}")]


async def test_no_index_at_all() -> None:
    assert await accumulate(
        fragment(id="a", name="f", arguments="{"),
        fragment(arguments="}"),
        fragment(id="b", name="g", arguments="[]"),
    ) == [("a", "f", "{}"), ("b", "g", "[]")]


async def test_id_and_name_in_every_fragment() -> None:
    assert await accumulate(
        fragment(index=0, id="a", name="f", arguments="{"),
        fragment(index=0, id="a", name="f", arguments='"k":'),
        fragment(index=0, id="a", name="f", arguments="2}"),
    ) == [("a", "f", '{"k":2}')]


async def test_empty_id_and_name_in_later_fragments() -> None:
    assert await accumulate(
        fragment(index=0, id="a", name="f", arguments="{"), fragment(index=0, id="", name="", arguments="}")
    ) == [("a", "f", "{}")]


async def test_another_id_without_a_name_continues_its_index() -> None:
    assert await accumulate(
        fragment(index=0, id="a", name="f", arguments="{"), fragment(index=0, id="zzz", arguments="}")
    ) == [("a", "f", "{}")]


async def test_the_id_before_the_name_and_arguments_before_both() -> None:
    assert await accumulate(
        fragment(index=0, arguments="{"), fragment(index=0, id="a"), fragment(index=0, name="f", arguments="}")
    ) == [("a", "f", "{}")]


async def test_without_ids_each_call_gets_one() -> None:
    first, second, third = await accumulate(
        fragment(index=0, name="f", arguments="{}"),
        fragment(index=0, name="f", arguments='{"again":1}'),
        fragment(index=0, name="g", arguments="{}"),
    )
    assert (first[1:], second[1:], third[1:]) == (("f", "{}"), ("f", '{"again":1}'), ("g", "{}"))
    assert len({first[0], second[0], third[0], ""}) == 4


async def test_without_ids_a_repeated_name_continues_unfinished_arguments() -> None:
    ((_, name, arguments),) = await accumulate(
        fragment(index=0, name="f", arguments='{"a'), fragment(index=0, name="f", arguments='":1}')
    )
    assert (name, arguments) == ("f", '{"a":1}')


async def test_arguments_as_an_object() -> None:
    assert await accumulate(fragment(index=0, id="a", name="f", arguments={"x": 1})) == [("a", "f", '{"x":1}')]


async def test_custom_tools() -> None:
    calls, batch = ToolCalls(0, MARK), EventBatch()
    calls.add({"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}, batch)
    calls.add({"index": 0, "custom": {"input": " 1"}}, batch)
    assert batch.events[0].tool_call_started.tool_kind == 2
    assert Recording(batches=[batch], starting=False).calls() == [("a", "sql", "SELECT 1")]


async def test_whole_calls_are_never_joined() -> None:
    same = fragment(id="a", name="f", arguments="{}")
    assert await accumulate(same, {**same, "id": "b"}, whole=True) == [("a", "f", "{}"), ("b", "f", "{}")]


@pytest.mark.parametrize(
    "wrong", ["x", None, {"function": "f"}, fragment(index=0, name=1), fragment(index=0, id=7, name="f")]
)
async def test_nonsense_is_refused(wrong: Any) -> None:
    with pytest.raises(ProviderError, match="makes no sense"):
        await accumulate(wrong)


async def test_a_call_that_never_gets_a_name_is_refused() -> None:
    with pytest.raises(ProviderError, match="no name"):
        await accumulate(fragment(index=0, id="a", arguments="{}"))


Json = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4).map(json.dumps)


@given(
    st.lists(st.tuples(st.sampled_from("fgh"), Json), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from(["standard", "index_0", "no_index", "repeated"]),
)
async def test_fragments_join_to_the_arguments(calls: list[tuple[str, str]], random: Any, style: str) -> None:
    queues = []
    for index, (name, arguments) in enumerate(calls):
        cuts = sorted(random.randrange(len(arguments) + 1) for _ in range(3))
        pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
        fields: dict[str, Any] = {} if style == "no_index" else {"index": 0 if style == "index_0" else index}
        queue = [fragment(**fields, id=f"id{index}", name=name, arguments="")]
        again = {"id": f"id{index}", "name": name} if style == "repeated" else {}
        queue += [fragment(**fields, **again, arguments=piece) for piece in pieces]
        queues.append(queue)
    if style in ("index_0", "no_index"):  # such servers send one call after the other
        order = [each for queue in queues for each in queue]
    else:
        order = [queue.pop(0) for queue in queues]  # first fragments come in order of the calls
        while any(queues):
            order.append(random.choice([queue for queue in queues if queue]).pop(0))
    expected = [(f"id{index}", name, arguments) for index, (name, arguments) in enumerate(calls)]
    assert await accumulate(*order) == expected


def signature_of(*fragments: dict[str, Any]) -> bytes:
    calls, batch = ToolCalls(0, MARK), EventBatch()
    for each in fragments:
        calls.add(each, batch)
    calls.complete(batch)
    (started,) = [event.tool_call_started for event in batch.events if event.HasField("tool_call_started")]
    return started.signature


@pytest.mark.parametrize("encoded", ["cHJvb2Y+", "cHJvb2Y-"])
def test_a_signed_call_keeps_its_proof(encoded: str) -> None:
    signed = {"google": {"thought_signature": encoded}}
    assert signature_of(fragment(index=0, id="a", name="f", arguments="{}", extra_content=signed)) == MARK + b"proof>"
    parted = fragment(index=0, id="a", extra_content=signed), fragment(index=0, name="f", arguments="{}")
    assert signature_of(*parted) == MARK + b"proof>"


@pytest.mark.parametrize("extra", [None, 1, {}, {"google": 1}, {"google": {"thought_signature": None}}, {"other": 1}])
def test_what_others_put_beside_a_call_is_no_proof(extra: Any) -> None:
    assert signature_of(fragment(index=0, id="a", name="f", arguments="{}", extra_content=extra)) == b""


def test_a_signature_that_cannot_be_read_is_a_failure() -> None:
    with pytest.raises(ProviderError, match="signature of a tool call is not base64"):
        signature_of(fragment(index=0, name="f", extra_content={"google": {"thought_signature": "%"}}))
