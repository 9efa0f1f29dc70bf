"""Answers of Alchemyst's chat API: whole, streamed and not stored."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.alchemyst import (
    CHAT,
    UNUSED_ID,
    assistant,
    call,
    chat_ids,
    fetch,
    generate,
    said,
    script,
    stream,
    user,
)
from tests.support.core import running_core
from tests.support.edge import client_of, running_edge
from tests.support.waiting import until

if TYPE_CHECKING:
    import aiohttp

HELLO = "You said: hello there"


async def test_an_answer_begins_a_chat(client: aiohttp.ClientSession) -> None:
    answer = await generate(client, user("hello there"), persona="maya", researchMode=True)
    assert re.fullmatch("[0-9a-f]{24}", answer["chatId"])
    assert (answer["title"], answer["researchMode"], answer["stream"]) == ("hello there", True, False)
    result = answer["result"]
    assert result["response"]["kwargs"]["content"] == result["response"]["content"] == result["message"] == HELLO
    assert (result["persona"], result["json"]) == ("maya", {"searchResults": []})
    assert result["response"]["kwargs"]["response_metadata"] == {"model_name": "echo", "finish_reason": "stop"}
    chat = await fetch(client, answer["chatId"])
    assert (chat["title"], chat["source"], chat["scope"]) == (answer["title"], "platform.converse", "private")
    assert [message["role"] for message in chat["messages"]] == ["user", "assistant"]
    assert chat["messages"][1]["id"] == result["response"]["kwargs"]["id"]


async def test_a_chat_goes_on_without_repeating_itself(client: aiohttp.ClientSession) -> None:
    history = [user("one", id="m-1", json='{"a":1}')]
    chat_id = (await generate(client, *history))["chatId"]
    history += [assistant("You said: one"), user("two", id="m-2", thinking_steps=["hm"], mood="calm")]
    assert (await generate(client, *history, chatId=chat_id))["chatId"] == chat_id
    history += [assistant("You said: two"), {"role": "user", "message": "three", "id": "m-1"}]
    await stream(client, *history, chatId=chat_id.upper())
    messages = (await fetch(client, chat_id))["messages"]
    one, two, three = "You said: one", "You said: two", "You said: three"
    assert [message["content"] for message in messages] == ["one", one, "two", two, "three", three]
    assert all(message["content"] == message["message"] for message in messages)
    assert (messages[0]["id"], messages[0]["json"]) == ("m-1", '{"a":1}')
    assert (messages[2]["id"], messages[2]["thinking_steps"], messages[2]["mood"]) == ("m-2", ["hm"], "calm")
    assert messages[4]["id"].startswith("msg_")  # the chat has an m-1
    assert await chat_ids(client) == [chat_id]


async def test_the_query_says_what_the_body_does_not(client: aiohttp.ClientSession) -> None:
    query = "?username=joe&source=integrations.zendocs&title=From+the+query"
    body = {"chat_history": [user("hi")], "title": "From the body", "phone": "+1", "scope": "external"}
    chat_id = (await call(client, "POST", f"{CHAT}/generate{query}", 201, body))["chatId"]
    chat = await fetch(client, chat_id)
    assert (chat["title"], chat["source"]) == ("From the body", "integrations.zendocs")
    assert (chat["username"], chat["phone"], chat["scope"]) == ("joe", "+1", "external")
    more = {"chat_history": [user("hi"), assistant("You said: hi"), user("more")], "chatId": None}
    await call(client, "POST", f"{CHAT}/generate?chatId={chat_id}", 201, more)
    assert len(await said(client, chat_id)) == 4


async def test_an_unused_id_becomes_the_chats(client: aiohttp.ClientSession) -> None:
    assert (await generate(client, user("hi"), chatId=UNUSED_ID))["chatId"] == UNUSED_ID
    await call(client, "DELETE", f"{CHAT}/{UNUSED_ID}", 200)
    refused = await generate(client, user("hi"), chatId=UNUSED_ID, status=404)
    assert refused == {"message": f"chat '{UNUSED_ID}' does not exist"}


async def test_twins_share_a_chat(client: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(generate(client, user(text, id="same"), chatId=UNUSED_ID) for text in "ab"))
    assert [answer["chatId"] for answer in answers] == [UNUSED_ID] * 2
    assert sorted(await said(client, UNUSED_ID)) == ["You said: a", "You said: b", "a", "b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Missing required parameter: 'chat_history'."),
        ({"chat_history": []}, "Invalid 'chat_history': expected at least 1 items, but got 0 instead."),
        ({"chat_history": [user(" ")]}, "Invalid 'chat_history': no message says anything."),
        ({"chat_history": [{"role": "user"}]}, "Missing required parameter: 'chat_history[0].content'."),
        (
            {"chat_history": [{"role": "tool", "content": "x"}]},
            "Invalid value: 'tool'. Supported values are: 'user', 'assistant' or 'system'.",
        ),
        (
            {"chat_history": [user("a", message="b")]},
            "'chat_history[0].content' and 'chat_history[0].message' differ: give one of them.",
        ),
        ({"chat_history": [user("a")], "chatId": "12"}, "Invalid 'chatId': it must be 24 hex digits."),
        ({"chat_history": [user("a")], "model": "x"}, "Unrecognized request argument supplied: model"),
        (
            {"chat_history": [user("a")], "persona": "nobody"},
            "`persona` is 'nobody', which does not exist; there are: maya",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused(client: aiohttp.ClientSession, fields: Any, message: str) -> None:
    for path in ("generate", "generate/stream"):
        answer = await call(client, "POST", f"{CHAT}/{path}", 400, fields)
        assert set(answer) == {"message"}
        assert answer["message"] == message
    assert await chat_ids(client) == []


async def test_deltas_are_wanted_or_not(client: aiohttp.ClientSession) -> None:
    path = f"{CHAT}/generate/stream?deltas=1"
    answer = await call(client, "POST", path, 400, {"chat_history": [user("a")]})
    assert answer == {"message": "Invalid 'deltas': it must be true or false."}
    assert await chat_ids(client) == []


async def test_long_details_are_refused_by_the_name_of_the_history(client: aiohttp.ClientSession) -> None:
    answer = await generate(client, user("a", json="x" * 70_000), status=400)
    assert answer == {"message": "`chat_history` is longer than 65536 bytes"}
    assert await chat_ids(client) == []


async def test_headers_that_say_it_in_other_words_are_refused(client: aiohttp.ClientSession) -> None:
    for header in ("X-Dragoman-Persona", "X-Dragoman-Conversation"):
        for path in ("", "/generate"):
            headers = {header: "maya"}
            answer = await call(client, "POST", CHAT + path, 400, {"chat_history": [user("a")]}, headers=headers)
            assert header in answer["message"]


async def test_a_new_chat_without_an_answer_is_gone(client: aiohttp.ClientSession) -> None:
    failing = script(fail_before={"reason": "PROVIDER_FAILED", "message": "Sorry."})
    assert await generate(client, failing, status=502) == {"message": "Sorry."}
    *_, last = await stream(client, failing)
    assert last == {"content": None, "error": {"message": "Sorry."}}
    assert await generate(client, script(tool_calls=[{"name": "f"}]), status=404) == {
        "message": "No response could be made: the model ended without saying anything."
    }
    assert await chat_ids(client) == []


async def test_what_was_said_before_a_failure_is_kept(client: aiohttp.ClientSession) -> None:
    failing = script(text=["Hel", "lo"], fail_after={"after": 2, "message": "Sorry."})
    *_, last = await stream(client, failing)
    assert last["error"] == {"message": "Sorry."}
    await generate(client, failing, status=502)  # a whole answer has no parts: nothing was said here
    (kept,) = await chat_ids(client)
    assert (await said(client, kept))[1:] == ["Hello"]


async def test_a_chat_in_which_another_request_was_answered_is_kept(client: aiohttp.ClientSession) -> None:
    failing = asyncio.create_task(generate(client, script(fail_before={}, first_delay=1), chatId=UNUSED_ID, status=502))
    async with asyncio.timeout(20):
        while await chat_ids(client) != [UNUSED_ID]:
            await asyncio.sleep(0.02)
    await generate(client, user("hi"), chatId=UNUSED_ID)
    await failing
    assert (await said(client, UNUSED_ID))[:2] == ["hi", "You said: hi"]


async def test_a_failure_leaves_an_old_chat_as_it_was(client: aiohttp.ClientSession) -> None:
    chat_id = (await generate(client, user("one")))["chatId"]
    await generate(client, user("one"), assistant("You said: one"), script(fail_before={}), chatId=chat_id, status=502)
    assert (await said(client, chat_id))[:2] == ["one", "You said: one"]


async def test_a_stream_tells_what_happens(client: aiohttp.ClientSession) -> None:
    told = await stream(
        client,
        script(reasoning=["Let me ", "think."], text=["It ", "is."]),
        query="?deltas=true",
        fastContext=[{"text": "The sky is blue."}, {"a": 1}, "plain"],
        tools=["research"],
        researchMode=True,
    )
    *before, final, metadata = told
    assert [frame.get("content", frame.get("delta")) for frame in before] == [
        "Added 3 pieces of context",
        "This server has no research yet: answering without",
        "This server has no tools yet: answering without",
        "Answering as maya",
        "Asking echo of demo",
        "Let me think.",
        "It ",
        "is.",
    ]
    assert final == {"type": "final_response", "content": "It is.", "json": {"searchResults": []}}
    assert metadata["type"] == "metadata"
    messages = (await fetch(client, metadata["content"]["chatId"]))["messages"]
    assert metadata["content"]["messageId"] == messages[-1]["id"]
    assert [message["content"] for message in messages][1:] == ["It is."]
    assert messages[-1]["thinking_steps"] == ["Let me think."]
    assert "sky" not in str(messages)


async def test_generate_streams_if_it_is_asked_to(client: aiohttp.ClientSession) -> None:
    body = {"chat_history": [user("hello there")], "stream": True, "tools": {"researchIcps": False}}
    async with client.post(f"{CHAT}/generate", json=body) as response:
        wire = await response.text()
        assert response.status == 200
        assert response.headers["x-dragoman-run-id"] in wire
    assert '"type":"final_response","content":"You said: hello there"' in wire
    assert "no research" not in wire


async def test_the_title_of_the_answer_is_that_of_the_chat(client: aiohttp.ClientSession) -> None:
    long = "Tell me everything there is to know about the history of the spice trade, please"
    *_, metadata = await stream(client, {"role": "system", "content": "Be kind."}, user(long))
    title = metadata["content"]["title"]
    assert title.endswith("…")
    assert (await fetch(client, metadata["content"]["chatId"]))["title"] == title


async def test_context_and_style_reach_the_model_and_are_not_stored(client: aiohttp.ClientSession) -> None:
    plain = await generate(client, user("hi"))
    rich = await generate(client, user("hi"), fastContext=[{"text": "one two three"}], voice=True)
    tokens = [one["result"]["response"]["kwargs"]["usage_metadata"]["input_tokens"] for one in (plain, rich)]
    assert tokens[1] > tokens[0] + 3
    assert await said(client, rich["chatId"]) == ["hi", "You said: hi"]


async def test_silence_is_filled_with_comments(client: aiohttp.ClientSession) -> None:
    async with client.post(
        f"{CHAT}/generate/stream", json={"chat_history": [script(text=["a"], first_delay=1)]}
    ) as got:
        wire = await got.text()
    assert ": ping\n" in wire
    assert wire.endswith("data: [DONE]\n\n")


async def test_a_client_that_leaves_ends_the_run_and_the_chat_keeps_what_was_said(
    client: aiohttp.ClientSession,
) -> None:
    body = {"chat_history": [script(text=["Hel", "lo"], hang=True)], "chatId": UNUSED_ID}
    async with client.post(f"{CHAT}/generate/stream?deltas=true", json=body) as response:
        async for line in response.content:
            if b'"lo"' in line:
                break
        response.close()
    async with asyncio.timeout(20):
        while (await said(client, UNUSED_ID))[1:] != ["Hello"]:
            await asyncio.sleep(0.02)


async def test_a_client_that_leaves_while_its_chat_is_made_leaves_no_chat() -> None:
    async with (
        running_core(default_model="fast") as core,
        running_edge(core.channel()) as edge,
        client_of(edge) as client,
    ):
        create, made, go_on = core.conversations.create, asyncio.Event(), asyncio.Event()

        async def held(*arguments: Any) -> Any:
            conversation = await create(*arguments)
            made.set()
            await go_on.wait()
            return conversation

        core.conversations.create = held  # type: ignore[method-assign, assignment]
        asking = asyncio.ensure_future(generate(client, user("hi"), chatId=UNUSED_ID))
        await asyncio.wait_for(made.wait(), 20)
        assert await chat_ids(client) == [UNUSED_ID]
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: any(task.cancelling() for task in asyncio.all_tasks()))  # the edge has noticed
        go_on.set()
        async with asyncio.timeout(20):
            while await chat_ids(client):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_early_leaves_a_chat_only_if_its_run_had_begun(begun: bool) -> None:
    async with (
        running_core(default_model="fast") as core,
        running_edge(core.channel()) as edge,
        client_of(edge) as client,
    ):
        apply, asked, never = core.personas.apply, asyncio.Event(), asyncio.Event()

        async def held(*arguments: Any) -> Any:
            asked.set()
            if not begun:
                await never.wait()
            return await apply(*arguments)

        core.personas.apply = held  # type: ignore[method-assign, assignment]
        asking = asyncio.ensure_future(generate(client, script(hang=True), chatId=UNUSED_ID))
        await asyncio.wait_for(asked.wait(), 20)
        if begun:
            await until(lambda: core.runs.active)
        assert await chat_ids(client) == [UNUSED_ID]
        asking.cancel()
        async with asyncio.timeout(20):
            if begun:
                while len(await said(client, UNUSED_ID)) != 2:  # the question, and that there was no answer
                    await asyncio.sleep(0.02)
            else:
                while await chat_ids(client):
                    await asyncio.sleep(0.02)
        await until(lambda: len([task for task in asyncio.all_tasks() if task.cancelling()]) == 0)
        assert await chat_ids(client) == ([UNUSED_ID] if begun else [])


async def test_an_answer_without_a_chat(client: aiohttp.ClientSession) -> None:
    history = [user("hi"), assistant("hello"), user("hello there")]
    answer = await call(client, "POST", CHAT, 201, {"chat_history": history})
    assert answer["result"] == {"message": HELLO, "persona": "maya"}
    assert answer["metadata"]["timeTaken"] >= 0
    for body, status in (
        ({"chat_history": []}, 400),
        ({"chat_history": history, "persona": "nobody"}, 400),
        ({"chat_history": [script(fail_before={})]}, 502),
    ):
        assert set(await call(client, "POST", CHAT, status, body)) == {"message"}
    assert await chat_ids(client) == []


async def test_a_request_that_is_sent_again_gets_the_first_answer(client: aiohttp.ClientSession) -> None:
    body = {"chat_history": [user("hello there")]}
    headers = {"Idempotency-Key": "once"}
    first = await call(client, "POST", f"{CHAT}/generate", 201, body, headers=headers)
    assert await call(client, "POST", f"{CHAT}/generate", 201, body, headers=headers) == first
    assert len(await said(client, first["chatId"])) == 2
    await call(client, "POST", f"{CHAT}/generate", 409, {"chat_history": [user("x")]}, headers=headers)
    assert await chat_ids(client) == [first["chatId"]]
