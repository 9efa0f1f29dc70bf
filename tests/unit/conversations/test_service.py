from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dragoman.v1 import conversation_service_pb2 as pb
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_server.caller import Caller
from dragoman_server.conversations import sweeps
from dragoman_server.conversations.messages import shown, shown_message
from dragoman_server.conversations.service import Conversations, wanted_filter
from dragoman_server.conversations.sweeps import sweep
from dragoman_server.errors import Conflict, DragomanError, IdempotencyConflict, InvalidRequest, NotFound, Unavailable
from dragoman_server.settings import ConversationSettings
from dragoman_server.store.memory import MemoryStore
from tests.support.conversations import (
    ALICE,
    BOB,
    KEY,
    STRANGER,
    Hands,
    a_run,
    appending,
    chat,
    creation,
    new,
    said,
    texts,
)

State = pb.StoredMessage.State


class Rig:
    def __init__(self, **settings: Any) -> None:
        self.clock = Hands()
        self.store = MemoryStore().conversations
        self.settings = ConversationSettings(**settings)
        self.service = Conversations(self.store, self.settings, self.clock)

    async def all_of(self, name: str, caller: Caller = ALICE) -> list[pb.StoredMessage]:
        return list(map(shown_message, (await self.service.messages(caller, name, 1000))[0]))

    async def texts(self, name: str, caller: Caller = ALICE) -> list[str]:
        return texts(stored.message for stored in await self.all_of(name, caller))

    async def listed(self, caller: Caller = ALICE, **wanted: Any) -> list[str]:
        return [one.id for one in (await self.service.page(caller, wanted_filter(**wanted)))[0]]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_new_conversation(rig: Rig) -> None:
    request = creation("Hello there", source="web", persona="maya", labels={"a": "1"}, title=" T ")
    made = shown(await rig.service.create(ALICE, request))
    assert (made.title, made.source, made.persona, dict(made.labels)) == ("T", "web", "maya", {"a": "1"})
    assert (made.user_id, made.message_count, made.etag, made.pinned) == ("user_alice", 1, "1", False)
    assert len(made.short_id) == 24
    assert int(made.short_id[:8], 16) == int(rig.clock.now)
    assert made.create_time == made.update_time
    assert not made.HasField("delete_time")
    assert shown(await rig.service.get(ALICE, made.id)) == made
    assert shown(await rig.service.get(ALICE, made.short_id.upper())) == made
    (message,) = await rig.all_of(made.id)
    assert (message.id, message.state, message.parent_id) == (made.head_message_id, State.STATE_COMPLETE, "")


async def test_a_title_is_made_of_the_first_user_message(rig: Rig) -> None:
    request = pb.CreateConversationRequest(messages=[new("be nice", ROLE_SYSTEM), new("Why is\nthe sky blue?")])
    assert (await rig.service.create(ALICE, request)).title == "Why is the sky blue?"
    empty = await rig.service.create(ALICE, creation())
    assert empty.title == ""
    assert (await rig.service.append(ALICE, appending(empty.id, "Later"))).conversation.title == "Later"


def given(*messages: pb.NewMessage) -> pb.CreateConversationRequest:
    return pb.CreateConversationRequest(messages=messages)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (creation(title="x" * 257), "title"),
        (creation(title="a\nb"), "title"),
        (creation(source="x" * 129), "source"),
        (creation(persona="Not A Name"), "persona"),
        (creation(short_id="xyz"), "short_id"),
        (creation(labels={str(n): "" for n in range(17)}), "labels"),
        (creation(labels={"": "x"}), "labels"),
        (creation(labels={"a": "x" * 513}), "labels"),
        (creation(request_id="x" * 256), "request_id"),
        (given(pb.NewMessage()), "messages[0].message.role"),
        (given(new("x"), new("x", details_json="{")), "messages[1].details_json"),
        (given(new("x", details_json='"' + "x" * 65536 + '"')), "messages[0].details_json"),
        (given(new("x", client_id="a b")), "messages[0].client_id"),
        (given(new("x", client_id="a"), new("y", client_id="a")), "messages[1].client_id"),
        (creation(*("x" for _ in range(11))), "messages"),
    ],
)
async def test_bad_creations_are_named(request_: pb.CreateConversationRequest, field: str) -> None:
    rig = Rig(max_messages=10)
    with pytest.raises(InvalidRequest) as failed:
        await rig.service.create(ALICE, request_)
    assert failed.value.field == field
    assert await rig.listed() == []


async def test_a_request_sent_again_gets_its_conversation(rig: Rig) -> None:
    first = await rig.service.create(ALICE, creation("x", request_id="r"))
    await rig.service.update(ALICE, first.id, title="renamed")
    assert (await rig.service.create(ALICE, creation("x", request_id="r"))).id == first.id
    with pytest.raises(IdempotencyConflict):
        await rig.service.create(ALICE, creation("y", request_id="r"))
    assert (await rig.service.create(BOB, creation("x", request_id="r"))).id != first.id


async def calls_on(service: Conversations, caller: Caller, name: str) -> list[DragomanError | None]:
    """What becomes of every call that names a conversation."""
    calls = (
        service.get(caller, name),
        service.update(caller, name, title="mine now"),
        service.messages(caller, name),
        service.append(caller, appending(name, "mine")),
        service.fork(caller, name),
        service.export(caller, name),
        service.open_turn(caller, chat("x", conversation_id=name)),
        service.undelete(caller, name),
        service.delete(caller, name),
        service.delete(caller, name, purge=True),
    )
    results = [(await asyncio.gather(call, return_exceptions=True))[0] for call in calls]
    return [result if isinstance(result, DragomanError) else None for result in results]


@pytest.mark.parametrize("deleted", [False, True])
async def test_others_find_nothing(rig: Rig, deleted: bool) -> None:
    made = await rig.service.create(ALICE, creation("x"))
    if deleted:
        await rig.service.delete(ALICE, made.id)
    before = await rig.store.get(made.owner, made.id)
    for caller in (BOB, KEY, STRANGER):
        for name in (made.id, made.short_id):
            assert [type(error) for error in await calls_on(rig.service, caller, name)] == [NotFound] * 10
        assert await rig.listed(caller) == []
        assert await rig.listed(caller, deleted=True) == []
    assert await rig.store.get(made.owner, made.id) == before


@pytest.mark.parametrize("name", [" ", "conv_", "x\0y", "conv_" + "0" * 32, "f" * 24, "%", "'; --"])
async def test_what_does_not_exist_is_not_found(rig: Rig, name: str) -> None:
    await rig.service.create(ALICE, creation("x"))
    assert [type(error) for error in await calls_on(rig.service, ALICE, name)] == [NotFound] * 10


async def test_a_deleted_conversation_can_only_be_had_back(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("x"))
    rig.clock.now += 1
    deleted = await rig.service.delete(ALICE, made.id)
    assert deleted.delete_time == deleted.update_time == int(rig.clock.now * 1_000_000)
    assert await rig.service.delete(ALICE, made.id) == deleted
    assert [type(error) for error in await calls_on(rig.service, ALICE, made.id)][:7] == [NotFound] * 7
    again = await rig.service.create(ALICE, creation("y"))
    await rig.service.delete(ALICE, again.id)
    assert await rig.listed() == []
    assert set(await rig.listed(deleted=True)) == {again.id}  # the first one was purged by the last of the calls
    undeleted = await rig.service.undelete(ALICE, again.short_id)
    assert undeleted.delete_time is None
    assert await rig.service.undelete(ALICE, again.id) == undeleted
    assert await rig.texts(again.id) == ["y"]


async def test_updates(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("x"))
    rig.clock.now += 1
    renamed = await rig.service.update(ALICE, made.id, title="New", etag="1")
    assert (renamed.title, renamed.pinned, renamed.version) == ("New", False, 2)
    assert renamed.update_time > made.update_time
    pinned = await rig.service.update(ALICE, made.id, pinned=True)
    assert (pinned.title, pinned.pinned) == ("New", True)
    assert await rig.listed(pinned=True, query="new") == [made.id]
    for etag in ("1", "nonsense", "0", "9" * 40):
        with pytest.raises(Conflict):
            await rig.service.update(ALICE, made.id, title="x", etag=etag)
        with pytest.raises(Conflict):
            await rig.service.delete(ALICE, made.id, etag=etag, purge=True)
        with pytest.raises(Conflict):
            await rig.service.append(ALICE, appending(made.id, "x", etag=etag))
    with pytest.raises(InvalidRequest):
        await rig.service.update(ALICE, made.id)
    assert await rig.service.get(ALICE, made.id) == pinned


async def test_appends(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("one"))
    request = appending(made.short_id, "two", "three", request_id="r", etag="1")
    appended = await rig.service.append(ALICE, request)
    assert appended.conversation.version == 2
    assert await rig.texts(made.id) == ["one", "two", "three"]
    assert await rig.service.append(ALICE, request) == appended
    for bad in (appending(made.id), appending(made.id, *("x" for _ in range(1001)))):
        with pytest.raises(InvalidRequest):
            await rig.service.append(ALICE, bad)


async def test_a_full_conversation_takes_no_more() -> None:
    rig = Rig(max_messages=3)
    made = await rig.service.create(ALICE, creation("1", "2"))
    with pytest.raises(InvalidRequest, match="at most 3"):
        await rig.service.append(ALICE, appending(made.id, "3", "4"))
    with pytest.raises(InvalidRequest, match="full"):
        await rig.service.open_turn(ALICE, chat("3", conversation_id=made.id))


async def test_a_conversation_has_room_for_so_many_bytes() -> None:
    rig = Rig(max_bytes=1000, max_message_bytes=600)
    made = await rig.service.create(ALICE, creation("x" * 500))
    assert 500 < made.byte_count < 520
    for too_much, field in (
        (appending(made.id, "y" * 500), "messages"),
        (appending(made.id, "z" * 600), "messages[0]"),
    ):
        with pytest.raises(InvalidRequest, match="at most") as failed:
            await rig.service.append(ALICE, too_much)
        assert failed.value.field == field
    with pytest.raises(InvalidRequest, match="at most 1000 bytes") as failed:
        await rig.service.create(ALICE, creation("x" * 500, "y" * 500))
    assert failed.value.field == "messages"
    exported = json.loads(await rig.service.export(ALICE, made.id))
    exported["messages"] *= 2
    with pytest.raises(InvalidRequest, match="at most 1000 bytes"):
        await rig.service.import_(ALICE, json.dumps(exported).encode())
    turn = chat("y" * 500, conversation_id=made.id)
    with pytest.raises(InvalidRequest, match="full: it may have at most 1000 bytes") as failed:
        await rig.service.open_turn(ALICE, turn)
    assert failed.value.field == "spec.chat.conversation_id"
    with pytest.raises(InvalidRequest, match="too large") as failed:
        await rig.service.open_turn(ALICE, chat("a", "z" * 600, conversation_id=made.id))
    assert failed.value.field == "spec.chat.messages[1]"
    answered = await rig.service.open_turn(ALICE, chat("b", conversation_id=made.id))
    await answered.close(a_run("c" * 700))  # what was answered is kept
    with pytest.raises(InvalidRequest, match="full"):
        await rig.service.open_turn(ALICE, chat("b", conversation_id=made.id))


async def test_forks(rig: Rig) -> None:
    request = pb.CreateConversationRequest(title="T", source="s", persona="maya", labels={"a": "b"})
    request.messages.extend([new("one"), new("two", client_id="second"), new("three")])
    made = await rig.service.create(ALICE, request)
    ids = [message.id for message in await rig.all_of(made.id)]
    for at in (ids[1], "second"):
        fork = shown(await rig.service.fork(ALICE, made.short_id, at))
        assert (fork.title, fork.source, fork.persona, dict(fork.labels)) == ("T", "s", "maya", {"a": "b"})
        assert (fork.forked_from_id, fork.forked_at_message_id, fork.message_count) == (made.id, ids[1], 2)
        assert [message.id for message in await rig.all_of(fork.id)] == ids[:2]
    whole = await rig.service.fork(ALICE, made.id, title="Another")
    assert (whole.title, whole.message_count) == ("Another", 3)
    with pytest.raises(NotFound) as failed:
        await rig.service.fork(ALICE, fork.id, ids[2])
    assert failed.value.field == "message_id"
    for unknown in ("x\0", "%", "", "z" * 65):
        with pytest.raises(NotFound):
            await rig.service.fork(ALICE, fork.id if unknown else "f" * 24, unknown)
    empty = await rig.service.fork(ALICE, (await rig.service.create(ALICE, creation())).id)
    assert (empty.message_count, empty.head_message_id) == (0, None)


async def test_pages_of_conversations_stay_right_while_some_change(rig: Rig) -> None:
    made = []
    for number in range(7):
        rig.clock.now += 1
        made.append((await rig.service.create(ALICE, creation(str(number)))).id)
    first, token = await rig.service.page(ALICE, wanted_filter(), 3)
    rig.clock.now += 1
    await rig.service.append(ALICE, appending(made[5], "more"))  # was seen
    await rig.service.append(ALICE, appending(made[1], "more"))  # would have come
    await rig.service.create(ALICE, creation("new"))
    seen = [one.id for one in first]
    while token:
        page, token = await rig.service.page(ALICE, wanted_filter(), 3, token)
        seen += [one.id for one in page]
    assert seen == [made[6], made[5], made[4], made[3], made[2], made[0]]


async def test_tokens_are_good_in_their_list_only(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("1", "2", "3"))
    await rig.service.create(ALICE, creation("1"))
    _, token = await rig.service.page(ALICE, wanted_filter(), 1)
    for caller, wanted in ((BOB, wanted_filter()), (ALICE, wanted_filter(pinned=False)), (STRANGER, wanted_filter())):
        with pytest.raises(InvalidRequest):
            await rig.service.page(caller, wanted, 1, token)
    with pytest.raises(InvalidRequest):
        await rig.service.messages(ALICE, made.id, 1, token)
    _, of_messages = await rig.service.messages(ALICE, made.id, 2)
    assert texts(
        [shown_message(m).message for m in (await rig.service.messages(ALICE, made.id, 2, of_messages))[0]]
    ) == ["3"]


@pytest.mark.parametrize("query", ["x" * 513, " ".join(map(str, range(17)))])
def test_a_query_has_bounds(query: str) -> None:
    with pytest.raises(InvalidRequest):
        wanted_filter(query=query)


async def test_what_is_exported_can_be_imported(rig: Rig) -> None:
    request = pb.CreateConversationRequest(title="T", source="s", persona="maya", labels={"a": "b"})
    request.messages.extend([new("one", details_json='{"k": 1}', client_id="c"), new("zwei ß 🔑")])
    made = await rig.service.create(ALICE, request)
    turn = await rig.service.open_turn(ALICE, chat("three", conversation_id=made.id))
    await turn.close(a_run("four", Run.STATE_FAILED))
    data = await rig.service.export(ALICE, made.id)
    assert json.loads(data)["format"] == "dragoman.conversation.v1"
    rig.clock.now += 100
    copied = await rig.service.import_(BOB, data)
    assert copied.id != made.id
    assert copied.short_id != made.short_id
    assert (copied.title, copied.source, copied.persona, copied.labels) == ("T", "s", "maya", made.labels)
    before, after = await rig.all_of(made.id), await rig.all_of(copied.id, BOB)
    for message in (*before, *after):
        message.ClearField("id")
        message.ClearField("parent_id")
    assert before == after
    assert await rig.listed(BOB, query="ZWEI") == [copied.id]
    assert json.loads(await rig.service.export(BOB, copied.id))["messages"][0]["client_id"] == "c"


def bad_exports() -> Iterator[tuple[Any, str]]:
    good: dict[str, Any] = {"message": {"role": "ROLE_USER", "parts": []}}
    yield b"", "json"
    yield b"\xff", "json"
    yield b"[" * 100_000, "json"
    yield b"[" + b"[]," * 1_000_000 + b"[]]", "json"
    yield b'{"format": "dragoman.conversation.v1", "messages": [{"state": 1e400}]}', "json"
    yield b'{"format": "dragoman.conversation.v1", "conversation": {"\\ud800": 1}}', "json"
    yield [], "json.format"
    yield {"format": "other"}, "json.format"
    for conversation, field in (
        (3, "json.conversation"),
        ({"nonsense": 1}, "json.conversation"),
        ({"title": "x" * 300}, "title"),
    ):
        yield {"format": "dragoman.conversation.v1", "conversation": conversation}, field
    for message, field in (
        (3, ""),
        ({}, ".message.role"),
        ({**good, "details_json": "{"}, ".details_json"),
        ({**good, "client_id": "a b"}, ".client_id"),
        ({**good, "run_id": "x"}, ".run_id"),
        ({**good, "model": "\n"}, ".model"),
        ({**good, "state": 77}, ".state"),
        ({**good, "create_time": "yesterday"}, ""),
        ({**good, "details_json": "[NaN]"}, ".details_json"),
    ):
        yield {"format": "dragoman.conversation.v1", "messages": [good, message]}, "json.messages[1]" + field
    yield {"format": "dragoman.conversation.v1", "messages": {}}, "json.messages"
    yield {"format": "dragoman.conversation.v1", "messages": [good] * 11}, "messages"


@pytest.mark.parametrize(("document", "field"), list(bad_exports()))
async def test_bad_exports_are_named(document: Any, field: str) -> None:
    rig = Rig(max_messages=10)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidRequest) as failed:
        await rig.service.import_(ALICE, data)
    assert failed.value.field == field
    assert await rig.listed() == []


async def test_a_request_without_a_conversation_is_left_alone(rig: Rig) -> None:
    asked = chat("x", persona="maya")
    turn = await rig.service.open_turn(ALICE, asked)
    assert turn.chat is asked
    assert turn.conversation_id == ""
    assert await turn.close(a_run()) == []


async def test_context_precedes_all_and_is_not_stored(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("before"))
    asked = chat("now", conversation_id=made.id, context=["fact one", "fact two"])
    before = ChatSpec.FromString(asked.SerializeToString())
    turn = await rig.service.open_turn(ALICE, asked)
    assert asked == before
    assert not turn.chat.context
    assert turn.chat.messages[0].role == ROLE_SYSTEM
    assert "fact one\n\nfact two" in turn.chat.messages[0].parts[0].text.text
    assert texts(turn.chat.messages)[1:] == ["before", "now"]
    await turn.close(a_run())
    assert await rig.texts(made.id) == ["before", "now", "answer"]
    alone = await rig.service.open_turn(ALICE, chat("now", context=["fact"]))
    assert len(alone.chat.messages) == 2


async def test_context_joins_the_instructions_that_are_there(rig: Rig) -> None:
    asked = ChatSpec(messages=[said("be nice", ROLE_SYSTEM), said("x")], context=["fact"])
    turn = await rig.service.open_turn(ALICE, asked)
    assert [message.role for message in turn.chat.messages] == [ROLE_SYSTEM, ROLE_USER]
    text = turn.chat.messages[0].parts[0].text.text
    assert text.endswith("\n\nbe nice")
    assert "fact" in text


@pytest.mark.parametrize("name", ["id", "short_id"])
async def test_a_turn(rig: Rig, name: str) -> None:
    made = await rig.service.create(ALICE, creation(persona="maya"))
    turn = await rig.service.open_turn(ALICE, chat("Why?", conversation_id=getattr(made, name)))
    assert (turn.conversation_id, turn.chat.conversation_id, turn.chat.persona) == (made.id, "", "maya")
    run = a_run("Because.")
    ids = await turn.close(run)
    question, answer = await rig.all_of(made.id)
    assert [question.id, answer.id] == ids
    assert (question.run_id, question.model, question.state) == ("", "", State.STATE_COMPLETE)
    assert (answer.run_id, answer.model, answer.state) == (run.id, "demo/echo", State.STATE_COMPLETE)
    assert (answer.message.role, texts([answer.message])) == (ROLE_ASSISTANT, ["Because."])
    assert turn.close(run) is turn.close(run)
    assert await turn.close(run) == ids
    assert (await rig.service.get(ALICE, made.id)).title == "Why?"
    following = await rig.service.open_turn(ALICE, chat("And?", conversation_id=made.id, persona="zoe"))
    assert texts(following.chat.messages) == ["Why?", "Because.", "And?"]
    assert following.chat.persona == "zoe"


@pytest.mark.parametrize(
    ("state", "kept"),
    [(Run.STATE_FAILED, State.STATE_FAILED), (Run.STATE_CANCELLED, State.STATE_CANCELLED)],
)
async def test_a_turn_that_broke_off_keeps_what_was_said(rig: Rig, state: Any, kept: Any) -> None:
    made = await rig.service.create(ALICE, creation())
    for answer in ("Bec", None):
        turn = await rig.service.open_turn(ALICE, chat("Why?", conversation_id=made.id))
        await turn.close(a_run(answer, state))
    stored = await rig.all_of(made.id)
    assert [message.state for message in stored] == [State.STATE_COMPLETE, kept] * 2
    assert [message.message.role for message in stored] == [ROLE_USER, ROLE_ASSISTANT] * 2
    following = await rig.service.open_turn(ALICE, chat("Well?", conversation_id=made.id))
    assert texts(following.chat.messages) == ["Why?", "Bec", "Why?", "Well?"]


async def test_parallel_turns_lose_nothing(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("start"))
    turns = [await rig.service.open_turn(ALICE, chat(f"q{n}", conversation_id=made.id)) for n in range(50)]
    await asyncio.gather(*(turn.close(a_run(f"a{n}")) for n, turn in enumerate(turns)))
    said_then = (await rig.texts(made.id))[1:]
    assert {(said_then[at], said_then[at + 1]) for at in range(0, 100, 2)} == {(f"q{n}", f"a{n}") for n in range(50)}


async def test_a_turn_of_a_conversation_that_goes_meanwhile(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("x"))
    deleted = await rig.service.open_turn(ALICE, chat("y", conversation_id=made.id))
    purged = await rig.service.open_turn(ALICE, chat("z", conversation_id=made.id))
    await rig.service.delete(ALICE, made.id)
    assert len(await deleted.close(a_run())) == 2
    assert (await rig.store.get(made.owner, made.id)).message_count == 3  # type: ignore[union-attr]
    await rig.service.delete(ALICE, made.id, purge=True)
    assert await purged.close(a_run()) == []


async def test_instructions_that_are_in_force_are_stored_once(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation())
    for number in range(2):
        asked = ChatSpec(messages=[said("be nice", ROLE_SYSTEM), said(f"q{number}")], conversation_id=made.id)
        turn = await rig.service.open_turn(ALICE, asked)
        await turn.close(a_run(f"a{number}"))
    assert texts(turn.chat.messages) == ["be nice", "q0", "a0", "q1"]
    assert await rig.texts(made.id) == ["be nice", "q0", "a0", "q1", "a1"]


async def turn_with_title(rig: Rig, made: Any) -> None:
    turn = await rig.service.open_turn(ALICE, chat("What is the borrow checker?", conversation_id=made.id))
    await turn.close(a_run("A part of the compiler."))
    await asyncio.gather(*rig.service._tasks)


async def test_a_model_may_make_the_title() -> None:
    rig = Rig(title="model", title_model="small")
    asked: list[tuple[Caller, ChatSpec]] = []

    async def make(caller: Caller, request: ChatSpec) -> str:
        asked.append((caller, request))
        return '"The borrow checker."\n'

    rig.service.title_maker = make
    made = await rig.service.create(ALICE, creation())
    await turn_with_title(rig, made)
    await turn_with_title(rig, made)
    assert (await rig.service.get(ALICE, made.id)).title == "The borrow checker"
    ((caller, request),) = asked
    assert (caller, request.model) == (ALICE, "small")
    assert "What is the borrow checker?" in texts(request.messages)[1]
    assert "A part of the compiler." in texts(request.messages)[1]


async def test_a_title_that_was_changed_meanwhile_stays() -> None:
    rig = Rig(title="model")
    made = await rig.service.create(ALICE, creation())

    async def make(caller: Caller, request: ChatSpec) -> str:
        assert request.model == "demo/echo"
        await rig.service.update(ALICE, made.id, title="Mine")
        return "The model's"

    rig.service.title_maker = make
    await turn_with_title(rig, made)
    assert (await rig.service.get(ALICE, made.id)).title == "Mine"


async def test_without_a_models_title_the_first_message_gives_it() -> None:
    rig = Rig(title="model")

    async def make(caller: Caller, request: ChatSpec) -> str:
        raise Unavailable("no model")

    rig.service.title_maker = make
    made = await rig.service.create(ALICE, creation())
    await turn_with_title(rig, made)
    assert (await rig.service.get(ALICE, made.id)).title == "What is the borrow checker?"


async def test_sweeps_purge_and_delete() -> None:
    rig = Rig(purge_after_days=1, retention_days=10)
    day = 24 * 3600
    idle = await rig.service.create(ALICE, creation("idle"))
    pinned = await rig.service.create(BOB, creation("pinned"))
    await rig.service.update(BOB, pinned.id, pinned=True)
    gone = await rig.service.create(KEY, creation("gone"))
    await rig.service.delete(KEY, gone.id)
    rig.clock.now += day / 2

    async def swept() -> tuple[list[str], list[str], list[str]]:
        await sweep(rig.store, rig.settings, int(rig.clock.now * 1_000_000))
        return await rig.listed(), await rig.listed(deleted=True), await rig.listed(KEY, deleted=True)

    assert await swept() == ([idle.id], [], [gone.id])
    rig.clock.now += day
    assert await swept() == ([idle.id], [], [])
    rig.clock.now += 10 * day
    assert await swept() == ([], [idle.id], [])
    rig.clock.now += 2 * day
    assert await swept() == ([], [], [])
    assert await rig.listed(BOB) == [pinned.id]


async def test_by_default_nothing_is_deleted_for_being_idle(rig: Rig) -> None:
    made = await rig.service.create(ALICE, creation("x"))
    await sweep(rig.store, rig.settings, int((rig.clock.now + 10 * 365 * 24 * 3600) * 1_000_000))
    assert await rig.listed() == [made.id]


async def test_starting_and_stopping(rig: Rig) -> None:
    rig.service.start()
    await rig.service.stop()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_sweeps_run_by_themselves_and_survive_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(purge_after_days=0)
    made = await rig.service.create(ALICE, creation("x"))
    await rig.service.delete(ALICE, made.id)
    rig.clock.now += 1
    find, calls = rig.store.deleted_before, []

    async def flaky(time: int, *, limit: int) -> Any:
        calls.append(time)
        if len(calls) < 3:
            raise Unavailable("not now") if len(calls) == 1 else RuntimeError("a fault")
        return await find(time, limit=limit)

    monkeypatch.setattr(rig.store, "deleted_before", flaky)
    monkeypatch.setattr(sweeps, "FIRST_AFTER", 0)
    monkeypatch.setattr(sweeps, "EVERY", 0)
    rig.service.start()
    async with asyncio.timeout(10):
        while await rig.store.get(made.owner, made.id) is not None:
            await asyncio.sleep(0)
    await rig.service.stop()
    assert len(calls) >= 3
