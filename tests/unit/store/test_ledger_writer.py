"""The thread that writes the ledger: what comes together is written together, and in order."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_server.errors import Unavailable
from dragoman_server.store.ledger import writer as module
from dragoman_server.store.ledger.records import GRANT, Balance, Outcome, Post, Verdict
from dragoman_server.store.ledger.writer import Writer, as_future
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dragoman_server.store.ledger.records import Act


class Scribe:
    """Writes groups down, when it may."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.errors: list[Exception | None] = []
        self.may = threading.Event()
        self.may.set()
        self.closed = False

    def commit(self, acts: Sequence[Act]) -> list[Outcome]:
        assert self.may.wait(20)
        self.groups.append([act.time for act in acts])
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return [Outcome(Verdict.DONE, Balance("default", "credits"), act.time) for act in acts]

    def close(self) -> None:
        self.closed = True


class Site:
    """A writer, and what was told of what it was asked to write."""

    def __init__(self) -> None:
        self.scribe = Scribe()
        self.writer = Writer(self.scribe)
        self.told: list[list[int] | Exception] = []
        self.sent: list[list[int]] = []

    def send(self, *numbers: int) -> None:
        self.sent.append(list(numbers))
        self.writer.send_all([an_act(number) for number in numbers], self.tell)

    def tell(self, outcomes: Sequence[Outcome] | Exception) -> None:
        if isinstance(outcomes, Exception):
            self.told.append(outcomes)
        else:
            self.told.append([outcome.amount_micros for outcome in outcomes])

    async def all_told(self) -> None:
        await until(lambda: len(self.told) == len(self.sent))


def an_act(number: int) -> Post:
    return Post("default", "credits", GRANT, number, str(number), "", f"txn_{number}", number)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    site.scribe.may.set()
    await site.writer.close()
    assert site.scribe.closed == (site.writer._thread is not None)


async def test_all_acts_are_told_of_together_and_in_order(site: Site) -> None:
    site.send(3, 1, 2)
    await site.all_told()
    assert site.scribe.groups == [[3, 1, 2]]
    assert site.told == [[3, 1, 2]]


async def test_what_comes_in_one_turn_is_one_group_and_each_is_told_of_its_own(site: Site) -> None:
    site.send(1, 2)
    single = as_future(site.writer.send, an_act(3))
    site.send(4)
    site.send(5, 6)
    await site.all_told()
    assert (await single).amount_micros == 3
    assert site.scribe.groups == [[1, 2, 3, 4, 5, 6]]
    assert site.told == site.sent


async def test_what_comes_while_a_group_is_written_is_the_next(site: Site) -> None:
    site.scribe.may.clear()
    site.send(1)
    await asyncio.sleep(0)
    site.send(2, 3)
    await asyncio.sleep(0)
    site.send(4)
    assert site.told == []
    site.scribe.may.set()
    await site.all_told()
    assert site.scribe.groups == [[1], [2, 3, 4]]
    assert site.told == site.sent


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([2, 2, 1], [5]),
        ([2, 3, 1], [5, 1]),
        ([4, 2, 4], [4, 2, 4]),
        ([1] * 12, [5, 5, 2]),
        ([9, 1], [9, 1]),  # what is sent at once is never parted
        ([1, 9, 1], [1, 9, 1]),
    ],
)
async def test_a_group_has_a_bound(
    site: Site, monkeypatch: pytest.MonkeyPatch, sizes: list[int], groups: list[int]
) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    for size in sizes:
        site.send(*range(size))
    await site.all_told()
    assert [len(group) for group in site.scribe.groups] == groups
    assert site.told == site.sent


@given(turns=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), max_size=6))
async def test_nothing_is_lost_parted_or_out_of_order(turns: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", 5)
        site, number = Site(), 0
        for sizes in turns:
            for size in sizes:
                site.send(*range(number, number + size))
                number += size
            await asyncio.sleep(0)
        await site.all_told()
        await site.writer.close()
        assert site.told == site.sent
        assert [act for group in site.scribe.groups for act in group] == list(range(number))
        begins = {begin for begin, *_ in site.sent}
        assert all(group[0] in begins for group in site.scribe.groups)


@pytest.mark.parametrize("error", [Unavailable("it does not answer"), RuntimeError("a fault")])
async def test_an_error_tells_all_and_the_next_group_goes_on(site: Site, error: Exception) -> None:
    site.scribe.errors = [error, None]
    site.send(1, 2)
    site.send(3)
    await site.all_told()
    site.send(4, 5)
    await site.all_told()
    assert site.told == [error, error, [4, 5]]
    assert site.scribe.groups == [[1, 2, 3], [4, 5]]


async def test_who_fails_to_listen_keeps_nobody_from_being_told(site: Site) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a fault of who listens")

    site.send(1)
    site.writer.send_all([an_act(2), an_act(3)], fail)
    site.send(4, 5)
    await site.all_told()
    assert site.told == [[1], [4, 5]]
    site.send(6)
    await site.all_told()
    assert site.told[-1] == [6]


async def test_who_is_told_may_ask_for_more(site: Site) -> None:
    def ask(outcomes: Sequence[Outcome] | Exception) -> None:
        site.tell(outcomes)
        site.send(7, 8)

    site.writer.send_all([an_act(1), an_act(2)], ask)
    site.send(3)
    await until(lambda: len(site.told) == 3)
    assert site.told == [[1, 2], [3], [7, 8]]
    assert site.scribe.groups == [[1, 2, 3], [7, 8]]


async def test_the_end_writes_what_waits_and_nothing_more(site: Site) -> None:
    site.send(1)
    closing = asyncio.create_task(site.writer.close())
    site.send(2, 3)
    await closing
    assert site.told == [[1], [2, 3]]
    site.send(4, 5)
    assert isinstance(error := site.told[-1], Unavailable)
    assert error.reason is Reason.SHUTTING_DOWN
    assert site.scribe.groups == [[1, 2, 3]]
