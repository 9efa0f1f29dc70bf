from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dragoman_server.errors import Conflict, IdempotencyConflict, InvalidRequest, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.base import Store
from dragoman_server.store.conversations.records import (
    Append,
    ConversationRecord,
    Filter,
    MessageRecord,
    NewMessage,
    Owner,
)
from dragoman_server.store.conversations.search import fold, words_of
from dragoman_server.store.conversations.sql import SEARCHES
from dragoman_server.store.database import SqlStore, open_store
from dragoman_server.store.identity.records import AuditRecord

NOW = 1_790_000_000_000_000
NOBODY = Owner("default", "")
ALICE = Owner("default", "user_alice")
STRANGERS = (Owner("default", "user_bob"), NOBODY, Owner("other", "user_alice"))


def a_message(text: str = "hello", **values: Any) -> NewMessage:
    fields = {"body": text.encode(), "words": fold(text), "state": 1, "create_time": NOW}
    return NewMessage(id=new_id("msg"), **{**fields, **values})


def a_conversation(owner: Owner = ALICE, **values: Any) -> ConversationRecord:
    conversation_id = new_id("conv")
    fields = {
        "id": conversation_id,
        "account_id": owner.account_id,
        "user_id": owner.user_id,
        "short_id": conversation_id[-24:],
        "tree_id": conversation_id,
        "create_time": NOW,
        "update_time": NOW,
    }
    return ConversationRecord(**{**fields, **values})


def an_append(conversation: ConversationRecord, *messages: NewMessage, **values: Any) -> Append:
    return Append(
        owner=conversation.owner, conversation_id=conversation.id, messages=messages, **{"now": NOW + 1, **values}
    )


async def chain_of(store: Store, conversation: ConversationRecord) -> list[MessageRecord]:
    return await store.conversations.chain(conversation.account_id, conversation.head_message_id)


async def texts_of(store: Store, owner: Owner, name: str) -> list[str]:
    found = await store.conversations.get(owner, name)
    assert found is not None
    return [message.body.decode() for message in await chain_of(store, found)]


async def fork_at(store: Store, origin: ConversationRecord, message_id: str, **values: Any) -> ConversationRecord:
    def make(found: ConversationRecord, at: MessageRecord | None) -> ConversationRecord:
        assert at is not None
        return a_conversation(
            found.owner, tree_id=found.tree_id, head_message_id=at.id, message_count=at.depth + 1, **values
        )

    fork = await store.conversations.fork(origin.owner, origin.id, message_id, make)
    assert fork is not None
    return fork


def nothing(_: ConversationRecord) -> None:
    pass


async def test_a_conversation_comes_back_as_it_was_kept(store: Store) -> None:
    conversation = a_conversation(
        title="Ünï 🔑 'quoted' \"%s\" -- ;",
        words="words",
        pinned=True,
        source="a source",
        persona="maya",
        labels=b"\x00\xff",
        forked_from_id="conv_1",
        forked_at_message_id="msg_1",
        version=7,
        request_key="a key",
        request_hash=b"\x01",
        delete_time=NOW + 5,
    )
    assert await store.conversations.create(conversation, []) == conversation
    assert await store.conversations.get(ALICE, conversation.id) == conversation
    assert await store.conversations.get(ALICE, conversation.short_id) == conversation


async def test_messages_come_back_as_they_were_kept(store: Store) -> None:
    messages = [
        a_message("one", body=b"\x00\xff", run_id="run_1", model="m", details='{"a":1}', client_id="c-1", state=3),
        a_message("two"),
    ]
    conversation = await store.conversations.create(a_conversation(), messages)
    assert (conversation.head_message_id, conversation.message_count) == (messages[-1].id, 2)
    first, second = await chain_of(store, conversation)
    placed: Any = {"account_id": "default", "tree_id": conversation.tree_id, "request_key": None}
    assert first == MessageRecord(**fields_of(messages[0]), **placed, parent_id=None, depth=0)
    assert second == MessageRecord(**fields_of(messages[1]), **placed, parent_id=first.id, depth=1)


def fields_of(message: NewMessage) -> dict[str, Any]:
    return {name: getattr(message, name) for name in NewMessage.__dataclass_fields__}


async def test_nobody_else_finds_changes_or_reads_it(store: Store) -> None:
    conversation = await store.conversations.create(a_conversation(), [a_message("secret words")])
    conversations = store.conversations

    def edit(old: ConversationRecord) -> ConversationRecord:
        raise AssertionError("somebody else's")

    for stranger in STRANGERS:
        for name in (conversation.id, conversation.short_id):
            assert await conversations.get(stranger, name) is None
            assert await conversations.change(stranger, name, edit) is None
            assert await conversations.fork(stranger, name, "", lambda old, at: edit(old)) is None
            assert not await conversations.purge(stranger, name, nothing)
        with pytest.raises(NotFound):
            await conversations.append(replace(an_append(conversation, a_message()), owner=stranger))
        assert await conversations.page(stranger, Filter(), limit=10) == []
        assert await conversations.page(stranger, Filter(words=("secret",)), limit=10) == []
    assert await conversations.chain("other", conversation.head_message_id) == []
    assert await conversations.get(ALICE, conversation.id) == conversation


async def test_a_conversation_needs_its_account(store: Store) -> None:
    with pytest.raises(NotFound, match="'nowhere' does not exist"):
        await store.conversations.create(a_conversation(Owner("nowhere", "")), [a_message()])


async def test_a_short_id_is_unique_for_its_owner_only(store: Store) -> None:
    first = await store.conversations.create(a_conversation(), [])
    with pytest.raises(Conflict, match="short id"):
        await store.conversations.create(a_conversation(short_id=first.short_id), [a_message()])
    other = await store.conversations.create(a_conversation(NOBODY, short_id=first.short_id), [a_message()])
    assert await store.conversations.get(ALICE, first.short_id) == first
    assert await store.conversations.get(NOBODY, first.short_id) == other
    assert await store.conversations.purge(NOBODY, first.short_id, nothing)
    assert await store.conversations.get(ALICE, first.short_id) == first


async def test_conversations_know_their_size(store: Store) -> None:
    made = await store.conversations.create(a_conversation(), [a_message("12345"), a_message("é")])
    assert made.byte_count == 7
    fork = await fork_at(store, made, (await chain_of(store, made))[0].id)
    appends = [an_append(fork, a_message(text, details='"ü"'), max_bytes=20) for text in ("abc", "0" * 10, "defg")]
    results = await asyncio.gather(*map(store.conversations.append, appends), return_exceptions=True)
    assert [type(result) for result in results if isinstance(result, Exception)] == [InvalidRequest]
    assert "at most 20 bytes" in str(results[1])
    assert await texts_of(store, ALICE, fork.id) == ["12345", "abc", "defg"]
    for conversation, size in ((made, 7), (fork, 5 + 3 + 3 + 4 + 3)):
        found = await store.conversations.get(ALICE, conversation.id)
        assert found is not None
        assert found.byte_count == size
        again = await fork_at(store, found, found.head_message_id or "")
        assert again.byte_count == size


async def test_acts_of_administrators_are_kept_with_their_entries(store: Store) -> None:
    def entry(action: str) -> AuditRecord:
        return AuditRecord(new_id("aud"), "default", NOW, "operator", action, "x")

    def refuse(_: ConversationRecord) -> None:
        raise Conflict("no")

    conversations, entries = store.conversations, [entry("import"), entry("purge")]
    made = await conversations.create(a_conversation(), [a_message()], entries[0])
    with pytest.raises(Conflict):
        await conversations.create(a_conversation(short_id=made.short_id), [], entry("refused"))
    with pytest.raises(Conflict):
        await conversations.purge(ALICE, made.id, refuse, entry("refused"))
    assert not await conversations.purge(NOBODY, made.id, nothing, entry("refused"))
    assert await conversations.purge(ALICE, made.id, nothing, entries[1])
    assert await store.identity.audit.page("default", limit=9) == entries[::-1]


async def test_a_request_makes_one_conversation(store: Store) -> None:
    wanted = [a_conversation(request_key="key", request_hash=b"h", short_id=f"{n:024x}") for n in range(12)]
    made = await asyncio.gather(*(store.conversations.create(one, [a_message()]) for one in wanted))
    assert len({one.id for one in made}) == 1
    assert await store.conversations.page(ALICE, Filter(), limit=100) == [made[0]]
    assert len(await chain_of(store, made[0])) == 1


async def test_parallel_appends_lose_nothing_and_make_one_chain(store: Store) -> None:
    conversation = await store.conversations.create(a_conversation(), [a_message("start")])
    turns = [(f"u{number}", f"a{number}") for number in range(200)]
    appends = [an_append(conversation, *map(a_message, turn)) for turn in turns]
    results = await asyncio.gather(*(store.conversations.append(append) for append in appends))
    found = await store.conversations.get(ALICE, conversation.id)
    assert found is not None
    assert (found.message_count, found.version) == (401, 201)
    chain = await chain_of(store, found)
    assert [message.depth for message in chain] == list(range(401))
    assert [message.parent_id for message in chain] == [None, *(message.id for message in chain[:-1])]
    texts = [message.body.decode() for message in chain[1:]]
    assert {(texts[at], texts[at + 1]) for at in range(0, 400, 2)} == set(turns)
    for result in results:
        assert list(result.messages) == [m for m in chain if m.id in {one.id for one in result.messages}]


async def test_appends_to_many_conversations_at_once(store: Store) -> None:
    made = [await store.conversations.create(a_conversation(), []) for _ in range(10)]
    await asyncio.gather(
        *(store.conversations.append(an_append(one, a_message(f"{n}"))) for n in range(20) for one in made)
    )
    for one in made:
        assert sorted(await texts_of(store, ALICE, one.id), key=int) == [str(n) for n in range(20)]


async def test_a_refused_append_does_not_disturb_its_neighbours(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message(client_id="mine")])
    other = await store.conversations.create(a_conversation(), [])
    results = await asyncio.gather(
        store.conversations.append(an_append(one, a_message("1"))),
        store.conversations.append(an_append(one, a_message("2"), version=77)),
        store.conversations.append(an_append(one, a_message("3", client_id="mine"))),
        store.conversations.append(an_append(one, a_message("4"), max_messages=2)),
        store.conversations.append(replace(an_append(one, a_message("5")), conversation_id=new_id("conv"))),
        store.conversations.append(an_append(other, a_message("6"))),
        store.conversations.append(an_append(one, a_message("7"))),
        return_exceptions=True,
    )
    kinds = [type(result) if isinstance(result, Exception) else None for result in results]
    assert kinds == [None, Conflict, Conflict, InvalidRequest, NotFound, None, None]
    assert await texts_of(store, ALICE, one.id) == ["hello", "1", "7"]
    assert await texts_of(store, ALICE, other.id) == ["6"]


async def test_a_broken_append_does_not_fail_its_neighbours(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    broken = a_message("broken", state=None)
    results = await asyncio.gather(
        store.conversations.append(an_append(one, a_message("1"))),
        store.conversations.append(an_append(one, broken)),
        store.conversations.append(an_append(one, a_message("2"))),
        return_exceptions=True,
    )
    if type(store).__name__ != "MemoryStore":  # which has no schema to break
        assert [isinstance(result, Exception) for result in results] == [False, True, False]
        assert await texts_of(store, ALICE, one.id) == ["1", "2"]


async def test_an_append_may_depend_on_the_version(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    appends = [store.conversations.append(an_append(one, a_message(str(n)), version=1)) for n in range(8)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(await texts_of(store, ALICE, one.id)) == 1


async def test_the_first_append_with_a_title_gives_it(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    results = [
        await store.conversations.append(an_append(one, a_message(), title=title))
        for title in ("", "Erster Größe", "Second")
    ]
    assert [result.titled for result in results] == [False, True, False]
    assert [result.conversation.title for result in results] == ["", "Erster Größe", "Erster Größe"]
    assert await store.conversations.page(ALICE, Filter(words=words_of("GRÖSSE")), limit=2) == [
        results[-1].conversation
    ]


async def test_a_named_append_happens_once(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    appends = [an_append(one, a_message("x"), a_message("y"), request_key="key") for _ in range(6)]
    results = await asyncio.gather(*(store.conversations.append(append) for append in appends))
    assert len({tuple(message.id for message in result.messages) for result in results}) == 1
    assert await texts_of(store, ALICE, one.id) == ["x", "y"]
    with pytest.raises(IdempotencyConflict):
        await store.conversations.append(an_append(one, a_message("x"), request_key="key"))


async def test_client_ids_are_unique_in_a_conversation_only(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message("a"), a_message("b", client_id="c1")])
    fork = await fork_at(store, one, (await chain_of(store, one))[0].id)
    await store.conversations.append(an_append(fork, a_message("c", client_id="c1")))
    for conversation in (one, fork):
        with pytest.raises(Conflict, match="'c1'"):
            await store.conversations.append(an_append(conversation, a_message("d", client_id="c1")))
    again = await fork_at(store, one, "c1")
    assert await texts_of(store, ALICE, again.id) == ["a", "b"]


async def test_a_deleted_conversation_takes_the_end_of_a_turn_only(store: Store) -> None:
    one = await store.conversations.create(a_conversation(delete_time=NOW), [])
    with pytest.raises(NotFound):
        await store.conversations.append(an_append(one, a_message("no")))
    await store.conversations.append(an_append(one, a_message("yes"), even_deleted=True))
    assert await texts_of(store, ALICE, one.id) == ["yes"]


async def test_the_end_of_a_turn_leaves_out_client_ids_that_are_taken(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message("a", client_id="c1")])
    appended = await store.conversations.append(
        an_append(one, a_message("b", client_id="c1"), a_message("c", client_id="c2"), even_deleted=True)
    )
    assert [message.client_id for message in appended.messages] == [None, "c2"]
    chain = await store.conversations.chain("default", appended.conversation.head_message_id)
    assert [message.client_id for message in chain] == ["c1", None, "c2"]


async def test_chains_come_in_pieces(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message(str(n)) for n in range(7)])
    for size in (1, 3, 7, 9):
        seen: list[MessageRecord] = []
        while piece := await store.conversations.chain("default", one.head_message_id, after=len(seen) - 1, limit=size):
            seen += piece
        assert [message.body for message in seen] == [str(n).encode() for n in range(7)]
    assert await store.conversations.chain("default", None) == []


async def test_pages_run_by_time_then_id_falling(store: Store) -> None:
    made = [await store.conversations.create(a_conversation(update_time=NOW + n // 3), []) for n in range(10)]
    await store.conversations.create(a_conversation(NOBODY), [])
    expected = sorted(made, key=lambda one: (one.update_time, one.id), reverse=True)
    for limit in (1, 3, 10, 11):
        seen: list[ConversationRecord] = []
        while page := await store.conversations.page(
            ALICE, Filter(), limit=limit, before=(seen[-1].update_time, seen[-1].id) if seen else None
        ):
            seen += page
        assert seen == expected


async def test_filters(store: Store) -> None:
    plain = await store.conversations.create(a_conversation(), [])
    pinned = await store.conversations.create(a_conversation(pinned=True, source="s"), [])
    deleted = await store.conversations.create(a_conversation(delete_time=NOW), [])

    async def found(**values: Any) -> set[str]:
        return {one.id for one in await store.conversations.page(ALICE, Filter(**values), limit=10)}

    assert await found() == {plain.id, pinned.id}
    assert await found(pinned=True) == {pinned.id}
    assert await found(pinned=False) == {plain.id}
    assert await found(source="s") == {pinned.id}
    assert await found(deleted=True) == {deleted.id}


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("100%", ["a"]),
        ("100", ["a", "b"]),
        ("0_0", []),
        ("snake_case", ["b"]),
        ("snakexcase", ["c"]),
        ("back\\slash", ["c"]),
        ("ÄRGER", ["b"]),
        ("straße", ["b"]),
        ("STRASSE", ["b"]),
        ("ｆｕｌｌ", ["c"]),
        ("über TITLE", ["a"]),
        ("e\u0301te\u0301", ["c"]),
        ("100 snake_case", ["b"]),
        ("100 snakexcase", []),
        ("/", ["c"]),
        ("'; drop table", []),
        ("\0", ["a", "b", "c"]),
        ("日本", ["a"]),
    ],
)
async def test_searches_take_words_as_they_are(store: Store, query: str, hits: list[str]) -> None:
    said = {
        "a": ["100% sure", "日本語"],
        "b": ["1000 times", "snake_case", "Ärger in der Strasse"],
        "c": ["snakeXcase and back\\slash / \0 nul", "FULL été"],
    }
    names = {}
    for name, texts in said.items():
        title = "Title über" if name == "a" else name
        one = a_conversation(title=title, words=fold(title))
        names[(await store.conversations.create(one, [a_message(text) for text in texts])).id] = name
    found = await store.conversations.page(ALICE, Filter(words=words_of(query)), limit=10)
    assert sorted(names[one.id] for one in found) == hits


async def test_a_search_sees_what_a_fork_shares_and_nothing_beyond(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message("shared"), a_message("left")])
    fork = await fork_at(store, one, (await chain_of(store, one))[0].id)
    await store.conversations.append(an_append(fork, a_message("right")))

    async def found(word: str) -> set[str]:
        return {one.id for one in await store.conversations.page(ALICE, Filter(words=(word,)), limit=10)}

    assert await found("shared") == {one.id, fork.id}
    assert await found("left") == {one.id}
    assert await found("right") == {fork.id}


async def test_a_change_is_all_or_nothing(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])

    def refuse(old: ConversationRecord) -> ConversationRecord:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await store.conversations.change(ALICE, one.id, refuse)
    assert await store.conversations.get(ALICE, one.id) == one

    def edit(old: ConversationRecord) -> ConversationRecord:
        changes: Any = {"title": "T", "words": "t", "pinned": True, "version": old.version + 1}
        return replace(old, **changes, update_time=NOW + 9, delete_time=NOW + 9)

    changed = await store.conversations.change(ALICE, one.short_id, edit)
    assert changed == edit(one)
    assert await store.conversations.get(ALICE, one.id) == changed


async def test_parallel_changes_take_turns(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])

    def count(old: ConversationRecord) -> ConversationRecord:
        return replace(old, version=old.version + 1)

    await asyncio.gather(*(store.conversations.change(ALICE, one.id, count) for _ in range(20)))
    found = await store.conversations.get(ALICE, one.id)
    assert found is not None
    assert found.version == 21


async def test_a_purge_spares_what_others_share(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message(text) for text in "abc"])
    chain = await chain_of(store, one)
    fork = await fork_at(store, one, chain[1].id)
    await store.conversations.append(an_append(fork, a_message("d")))
    assert await store.conversations.purge(ALICE, one.short_id, nothing)
    assert await store.conversations.get(ALICE, one.id) is None
    assert await texts_of(store, ALICE, fork.id) == ["a", "b", "d"]
    assert await store.conversations.chain("default", chain[2].id) == []
    assert await store.conversations.purge(ALICE, fork.id, nothing)
    assert await store.conversations.chain("default", chain[1].id) == []
    assert not await store.conversations.purge(ALICE, fork.id, nothing)


async def test_parallel_purges_of_a_tree_leave_nothing(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message(text) for text in "abcdef"])
    chain = await chain_of(store, one)
    forks = [await fork_at(store, one, message.id) for message in chain]
    await asyncio.gather(*(store.conversations.append(an_append(fork, a_message("x"))) for fork in forks))
    purges = (store.conversations.purge(ALICE, each.id, nothing) for each in (one, *forks))
    assert all(await asyncio.gather(*purges))
    for message in chain:
        assert await store.conversations.chain("default", message.id) == []


async def test_a_purge_can_be_called_off(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [a_message()])

    def refuse(old: ConversationRecord) -> None:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await store.conversations.purge(ALICE, one.id, refuse)
    assert await texts_of(store, ALICE, one.id) == ["hello"]


async def test_a_short_id_is_free_after_a_purge(store: Store) -> None:
    one = await store.conversations.create(a_conversation(request_key="k"), [])
    await store.conversations.purge(ALICE, one.id, nothing)
    again = a_conversation(short_id=one.short_id, request_key="k")
    assert await store.conversations.create(again, []) == again


async def test_what_sweeps_look_for(store: Store) -> None:
    old = await store.conversations.create(a_conversation(), [])
    await store.conversations.create(a_conversation(pinned=True), [])
    await store.conversations.create(a_conversation(NOBODY, update_time=NOW + 10), [])
    gone = await store.conversations.create(a_conversation(NOBODY, delete_time=NOW + 5), [])
    await store.conversations.create(a_conversation(delete_time=NOW + 6), [])
    assert await store.conversations.idle_since(NOW + 1, limit=10) == [old]
    assert await store.conversations.deleted_before(NOW + 6, limit=10) == [gone]
    assert len(await store.conversations.deleted_before(NOW + 9, limit=1)) == 1
    assert await store.conversations.owners("default") == [NOBODY, ALICE]


async def test_closing_writes_what_waits(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    waiting = [store.conversations.append(an_append(one, a_message(str(n)))) for n in range(5)]
    await store.conversations.close()
    assert all(future.done() for future in waiting)
    assert len(await texts_of(store, ALICE, one.id)) == 5


async def test_an_append_nobody_waits_for_happens_all_the_same(store: Store) -> None:
    one = await store.conversations.create(a_conversation(), [])
    store.conversations.append(an_append(one, a_message("1"))).cancel()
    await store.conversations.append(an_append(one, a_message("2")))
    assert await texts_of(store, ALICE, one.id) == ["1", "2"]


async def test_searches_leave_connections_to_others(database_url: str) -> None:
    store = open_store(database_url)
    await store.migrate()
    assert isinstance(store, SqlStore)
    made = [await store.conversations.create(a_conversation(), [a_message("needle")]) for _ in range(3)]
    database, lent, most = store.conversations._database, 0, 0
    read = database.read

    @contextlib.asynccontextmanager
    async def counted() -> AsyncIterator[AsyncConnection]:
        nonlocal lent, most
        async with read() as connection:
            lent += 1
            most = max(most, lent)
            await asyncio.sleep(0.01)
            try:
                yield connection
            finally:
                lent -= 1

    database.read = counted  # type: ignore[method-assign]
    searches = (store.conversations.page(ALICE, Filter(words=("needle",)), limit=9) for _ in range(12))
    assert [len(found) for found in await asyncio.gather(*searches)] == [len(made)] * 12
    assert most == SEARCHES
    lists = (store.conversations.page(ALICE, Filter(), limit=9) for _ in range(12))
    assert [len(found) for found in await asyncio.gather(*lists)] == [len(made)] * 12
    assert most > SEARCHES
    await store.close()
