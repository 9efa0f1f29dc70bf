"""Whatever is done to conversations, in whatever order, they stay what a simple model says."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import func, select

from dragoman_server.conversations.messages import shown_message
from dragoman_server.conversations.service import Conversations, wanted_filter
from dragoman_server.settings import ConversationSettings
from dragoman_server.store.database import SqlStore, open_store, sqlite_url
from dragoman_server.store.memory import MemoryStore
from dragoman_server.store.tables import messages
from tests.support.conversations import ALICE, BOB, Hands, a_run, appending, chat, creation, texts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dragoman_server.store.base import Store

WORDS = st.sampled_from(["Alpha", "beta", "100%", "a_b", "ÄÖ"])
PARTS = st.sampled_from(["ALPHA", "0%", "a_b", "äö", "%", "_", "zz"])
SOME = st.lists(WORDS, max_size=3)
PICK = st.integers(0, 10**6)


@dataclass
class Modelled:
    """What a conversation should be."""

    owner: Any
    texts: list[str]
    ids: list[str]
    changed: int
    title: str = ""
    pinned: bool = False
    deleted: bool = False
    running: list[tuple[str, Any]] = field(default_factory=list)


class Trees(RuleBasedStateMachine):
    """Conversations of two users on one store."""

    open_store: Callable[[], Store]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = type(self).open_store()
        self.do(self.store.migrate())
        self.clock = Hands()
        self.service = Conversations(self.store.conversations, ConversationSettings(), self.clock)
        self.model: dict[str, Modelled] = {}
        self.changes = 0

    def do(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def change(self) -> int:
        self.clock.now += 1
        self.changes += 1
        return self.changes

    def pick(self, number: int) -> tuple[str, Modelled]:
        return list(self.model.items())[number % len(self.model)]

    def any_living(self) -> bool:
        return any(not one.deleted for one in self.model.values())

    def living(self, number: int) -> tuple[str, Modelled]:
        found = [(name, one) for name, one in self.model.items() if not one.deleted]
        return found[number % len(found)]

    def ids(self, owner: Any, name: str) -> list[str]:
        found, _ = self.do(self.service.messages(owner, name, 1000))
        return [message.id for message in found]

    def teardown(self) -> None:
        for name, one in self.model.items():
            self.do(self.service.delete(one.owner, name, purge=True))
        assert self.do(self.count()) == 0
        self.do(self.store.close())
        self.runner.close()

    async def count(self) -> int:
        if isinstance(self.store, MemoryStore):
            return len(self.store.conversations._messages)
        assert isinstance(self.store, SqlStore)
        async with self.store._database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(messages))).scalar_one())

    @rule(owner=st.sampled_from([ALICE, BOB]), said=SOME)
    def create(self, owner: Any, said: list[str]) -> None:
        now = self.change()
        made = self.do(self.service.create(owner, creation(*said)))
        title = said[0] if said else ""
        self.model[made.id] = Modelled(owner, list(said), self.ids(owner, made.id), now, title)

    @precondition(any_living)
    @rule(number=PICK, said=st.lists(WORDS, min_size=1, max_size=3))
    def append(self, number: int, said: list[str]) -> None:
        name, one = self.living(number)
        one.changed = self.change()
        appended = self.do(self.service.append(one.owner, appending(name, *said)))
        one.texts += said
        one.ids += [message.id for message in appended.messages]
        one.title = one.title or said[0]

    @precondition(any_living)
    @rule(number=PICK, at=PICK)
    def fork(self, number: int, at: int) -> None:
        name, one = self.living(number)
        now = self.change()
        if one.ids:
            at %= len(one.ids)
            made = self.do(self.service.fork(one.owner, name, one.ids[at]))
        else:
            at = -1
            made = self.do(self.service.fork(one.owner, name))
        self.model[made.id] = Modelled(one.owner, one.texts[: at + 1], one.ids[: at + 1], now, one.title)

    @precondition(any_living)
    @rule(number=PICK, title=WORDS, pinned=st.booleans())
    def update(self, number: int, title: str, pinned: bool) -> None:
        name, one = self.living(number)
        one.changed = self.change()
        self.do(self.service.update(one.owner, name, title=title, pinned=pinned))
        one.title, one.pinned = title, pinned

    @precondition(lambda self: self.model)
    @rule(number=PICK)
    def delete(self, number: int) -> None:
        name, one = self.pick(number)
        now = self.change()
        self.do(self.service.delete(one.owner, name))
        if not one.deleted:
            one.deleted, one.changed = True, now

    @precondition(lambda self: self.model)
    @rule(number=PICK)
    def undelete(self, number: int) -> None:
        name, one = self.pick(number)
        now = self.change()
        self.do(self.service.undelete(one.owner, name))
        if one.deleted:
            one.deleted, one.changed = False, now

    @precondition(lambda self: self.model)
    @rule(number=PICK)
    def purge(self, number: int) -> None:
        name, one = self.pick(number)
        self.do(self.service.delete(one.owner, name, purge=True))
        del self.model[name]

    @precondition(any_living)
    @rule(number=PICK, question=WORDS)
    def open_turn(self, number: int, question: str) -> None:
        name, one = self.living(number)
        turn = self.do(self.service.open_turn(one.owner, chat(question, conversation_id=name)))
        assert texts(turn.chat.messages) == [*one.texts, question]
        one.running.append((question, turn))

    @precondition(lambda self: any(one.running for one in self.model.values()))
    @rule(number=PICK, answer=WORDS)
    def close_turn(self, number: int, answer: str) -> None:
        running = [one for one in self.model.values() if one.running]
        one = running[number % len(running)]
        one.changed = self.change()
        question, turn = one.running.pop()
        one.ids += self.do(self._close(turn, answer))
        one.texts += [question, answer]
        one.title = one.title or question

    async def _close(self, turn: Any, answer: str) -> Any:
        return await turn.close(a_run(answer))

    @invariant()
    def conversations_are_what_they_should_be(self) -> None:
        for name, one in self.model.items():
            if one.deleted:
                continue
            found, token = self.do(self.service.messages(one.owner, name, 1000))
            assert not token
            assert texts(shown_message(message).message for message in found) == one.texts
            assert [message.id for message in found] == one.ids
            conversation = self.do(self.service.get(one.owner, name))
            assert conversation.message_count == len(one.ids)
            assert conversation.byte_count == sum(message.size for message in found)

    @invariant()
    def lists_are_what_they_should_be(self) -> None:
        for owner in (ALICE, BOB):
            for deleted in (False, True):
                wanted = [
                    (name, one) for name, one in self.model.items() if (one.owner, one.deleted) == (owner, deleted)
                ]
                wanted.sort(key=lambda item: item[1].changed, reverse=True)
                assert self.listed(owner, deleted=deleted) == [name for name, _ in wanted]
                pinned = [name for name, one in wanted if one.pinned]
                assert self.listed(owner, deleted=deleted, pinned=True) == pinned

    @rule(words=st.lists(PARTS, min_size=1, max_size=3), owner=st.sampled_from([ALICE, BOB]))
    def search(self, words: list[str], owner: Any) -> None:
        hits = {
            name
            for name, one in self.model.items()
            if one.owner == owner
            and not one.deleted
            and all(
                any(word.casefold() in text.casefold() for text in (one.title, *one.texts))  # each anywhere
                for word in words
            )
        }
        assert set(self.listed(owner, query=" ".join(words))) == hits

    def listed(self, owner: Any, **wanted: Any) -> list[str]:
        seen: list[str] = []
        token = ""
        while True:
            page, token = self.do(self.service.page(owner, wanted_filter(**wanted), 2, token))
            seen += [one.id for one in page]
            if not token:
                return seen

    @invariant()
    def no_message_is_kept_that_nobody_has(self) -> None:
        assert self.do(self.count()) == len({message_id for one in self.model.values() for message_id in one.ids})


@pytest.mark.parametrize(("kind", "examples"), [("memory", 30), ("sqlite", 6)])
def test_the_tree(kind: str, examples: int, tmp_path: Path) -> None:
    def fresh() -> Store:
        return open_store("memory:" if kind == "memory" else sqlite_url(tmp_path / f"{uuid.uuid4().hex}.db"))

    machine = type("Machine", (Trees,), {"open_store": staticmethod(fresh)})
    options = settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=options)


def test_the_tree_on_postgresql(postgres_url: str) -> None:
    machine = type("Machine", (Trees,), {"open_store": staticmethod(lambda: open_store(postgres_url))})
    options = settings(max_examples=4, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=options)
