"""Nobody gives a key more than they have: each restriction by itself, each act, and any acts after each other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyGrants, KeyRole, RateLimits
from dragoman_server.accounts.authority import has_scope
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.caller import Caller, permits_model
from dragoman_server.errors import Forbidden
from dragoman_server.store.identity.records import KeyRecord
from dragoman_server.store.memory import MemoryStore

MEMBER, ADMIN, OPERATOR = KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN, KeyRole.KEY_ROLE_OPERATOR
NOW = 1_790_000_000
PASSWORD = "correct horse"


def at(seconds: int) -> int:
    """The time, in microseconds."""
    return (NOW + seconds) * 1_000_000


class Terms(NamedTuple):
    """What a key can be made with."""

    grants: KeyGrants | None = None
    expire_time: int | None = None


class House:
    def __init__(self) -> None:
        self.now = NOW
        self.accounts = Accounts(MemoryStore(), clock=lambda: self.now)

    @property
    def keys(self) -> Any:
        return self.accounts.keys

    async def admin(self, terms: Terms) -> Caller:
        """Somebody with an ADMIN key of these terms."""
        _, secret = await self.make(terms, ADMIN)
        return await self.accounts.authenticate(secret)

    async def make(self, terms: Terms, role: KeyRole = MEMBER, caller: Caller | None = None) -> tuple[KeyRecord, str]:
        made: tuple[KeyRecord, str] = await self.keys.create(
            caller or operator(), "x", role, terms.expire_time, terms.grants
        )
        return made


def limits(**numbers: int) -> KeyGrants:
    return KeyGrants(limits=RateLimits(**numbers))


# What the caller's key is restricted in, what is within that, and what goes further.
RESTRICTIONS: dict[str, tuple[Terms, list[Terms], list[Terms]]] = {
    "grants.scopes": (
        Terms(KeyGrants(scopes=["account", "runs.read"])),
        [Terms(KeyGrants(scopes=scopes)) for scopes in (["account"], ["account.read"], ["runs.read", "account"])],
        [Terms(), Terms(KeyGrants()), Terms(KeyGrants(scopes=["runs"])), Terms(KeyGrants(scopes=["account", "usage"]))],
    ),
    "grants.models": (
        Terms(KeyGrants(models=["small-*", "big"])),
        [Terms(KeyGrants(models=models)) for models in (["small-*"], ["big", "small-1"], ["small-*-it"])],
        [Terms(), *(Terms(KeyGrants(models=models)) for models in (["*"], ["small*"], ["big", "big-2"], ["b*g"]))],
    ),
    "grants.providers": (
        Terms(KeyGrants(providers=["local", "near"])),
        [Terms(KeyGrants(providers=["near"])), Terms(KeyGrants(providers=["local", "near"]))],
        [Terms(), Terms(KeyGrants(providers=["far"])), Terms(KeyGrants(providers=["near", "far"]))],
    ),
    **{
        f"grants.limits.{name}": (
            Terms(limits(**{name: 10})),
            [Terms(limits(**{name: 10})), Terms(limits(**{name: 1}))],
            [Terms(), Terms(limits(**{name: 11})), Terms(limits(**{name: -1}))],
        )
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent_runs")
    },
    "expire_time": (
        Terms(expire_time=at(100)),
        [Terms(expire_time=at(100)), Terms(expire_time=at(50))],
        [Terms(), Terms(expire_time=at(101))],
    ),
}

Act = Callable[[House, Caller, Terms], Awaitable[Any]]


async def create(house: House, caller: Caller, terms: Terms) -> None:
    await house.make(terms, caller=caller)


async def enable_again(house: House, caller: Caller, terms: Terms) -> None:
    key, _ = await house.make(terms)
    await house.keys.update(caller, key.id, disabled=True)
    await house.keys.update(caller, key.id, disabled=False)


async def extend(house: House, caller: Caller, terms: Terms) -> None:
    """From nearly nothing to the terms."""
    little = KeyGrants(scopes=["account.read"], models=["big"], providers=["near"])
    little.limits.CopyFrom(RateLimits(requests_per_minute=1, tokens_per_minute=1, concurrent_runs=1))
    key, _ = await house.make(Terms(little, None if terms.expire_time is None else at(1)))
    changes = {"grants": terms.grants or KeyGrants(), "expire_time": terms.expire_time}
    changed = await house.keys.update(caller, key.id, **changes)
    assert (changed.grants, changed.expire_time) == (changes["grants"], changes["expire_time"])


async def postpone(house: House, caller: Caller, terms: Terms) -> None:
    """Makes a key last longer that has ended meanwhile."""
    key, _ = await house.make(Terms(terms.grants, at(1)))
    house.now += 1
    await house.keys.update(caller, key.id, expire_time=terms.expire_time or at(200))


ACTS: list[Act] = [create, enable_again, extend, postpone]
CASES = [
    pytest.param(name, terms, act, id=f"{name}-{number}-{act.__name__}")
    for name, (_, _, further) in RESTRICTIONS.items()
    for number, terms in enumerate(further)
    for act in ACTS
]


@pytest.mark.parametrize(("name", "terms", "act"), CASES)
async def test_what_goes_further_is_refused_and_named(name: str, terms: Terms, act: Act) -> None:
    house = House()
    caller = await house.admin(RESTRICTIONS[name][0])
    with pytest.raises(Forbidden) as refused:
        await act(house, caller, terms)
    assert refused.value.reason is Reason.FORBIDDEN
    assert refused.value.metadata == {"wider": name}
    assert name in refused.value.message
    unrestricted = House()
    await act(unrestricted, await unrestricted.admin(Terms()), terms)


@pytest.mark.parametrize(
    ("name", "terms", "act"),
    [
        pytest.param(name, terms, act, id=f"{name}-{number}-{act.__name__}")
        for name, (_, within, _) in RESTRICTIONS.items()
        for number, terms in enumerate(within)
        for act in ACTS
    ],
)
async def test_what_goes_no_further_can_be_given(name: str, terms: Terms, act: Act) -> None:
    house = House()
    await act(house, await house.admin(RESTRICTIONS[name][0]), terms)


async def test_all_that_goes_further_is_named() -> None:
    house = House()
    grants = KeyGrants(scopes=["account"], models=["m"], providers=["p"], limits=RateLimits(tokens_per_minute=5))
    caller = await house.admin(Terms(grants, at(9)))
    with pytest.raises(Forbidden) as refused:
        await house.make(Terms(), caller=caller)
    names = ["grants.scopes", "grants.models", "grants.providers", "grants.limits.tokens_per_minute", "expire_time"]
    assert refused.value.metadata["wider"].split() == names


@pytest.mark.parametrize("name", RESTRICTIONS)
async def test_a_key_that_goes_further_can_be_narrowed_but_not_widened(name: str) -> None:
    house = House()
    caller = await house.admin(RESTRICTIONS[name][0])
    key, secret = await house.make(Terms(KeyGrants(scopes=["runs", "usage"], models=["a*", "b*"]), at(500)))
    keys = house.keys
    assert (await keys.update(caller, key.id, name="renamed")).name == "renamed"
    assert (await keys.update(caller, key.id, expire_time=at(300))).expire_time == at(300)
    narrower = KeyGrants(scopes=["runs.read", "usage"], models=["a*"], limits=RateLimits())
    assert (await keys.update(caller, key.id, grants=narrower)).grants == narrower
    for wider in ({"expire_time": at(301)}, {"grants": KeyGrants(scopes=["runs", "usage"], models=["a*"])}):
        with pytest.raises(Forbidden):
            await keys.update(caller, key.id, **wider)
    assert not (await keys.update(caller, key.id, disabled=False)).disabled  # it never was
    assert (await keys.update(caller, key.id, disabled=True)).disabled
    with pytest.raises(Forbidden):
        await keys.update(caller, key.id, disabled=False)
    with pytest.raises(Forbidden):
        await keys.update(caller, key.id, disabled=False, grants=narrower)
    assert (await keys.revoke(caller, key.id)).revoke_time == at(0)
    assert house.accounts.cached(secret) is None


async def test_what_others_do_in_between_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    caller = await house.admin(RESTRICTIONS["grants.scopes"][0])
    wide, narrow = KeyGrants(models=["a", "b"]), KeyGrants(models=["a"])
    key, _ = await house.make(Terms(wide))
    store = house.accounts.keys._store.keys
    get = store.get
    meanwhile: dict[str, Any] = {}

    async def slow(account_id: str, key_id: str) -> KeyRecord | None:
        found = await get(account_id, key_id)
        if meanwhile:
            changes = dict(meanwhile)
            meanwhile.clear()
            await house.keys.update(operator(), key_id, **changes)
        return found

    monkeypatch.setattr(store, "get", slow)
    for change, undone in (({"disabled": True}, {"disabled": False}), ({"grants": narrow}, {"grants": wide})):
        meanwhile.update(change)
        with pytest.raises(Forbidden):
            await house.keys.update(caller, key.id, **undone)
        for name, value in change.items():
            assert getattr(await house.keys.get(operator(), key.id), name) == value


async def test_a_user_who_is_disabled_in_between_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()
    caller = await house.admin(RESTRICTIONS["grants.scopes"][0])
    users, store = house.accounts.users, house.accounts.users._store.users
    user = await users.create(operator(), "a@acme.test")
    get = store.get

    async def slow(account_id: str, user_id: str) -> Any:
        found = await get(account_id, user_id)
        monkeypatch.undo()
        await users.update(operator(), user_id, disabled=True)
        return found

    monkeypatch.setattr(store, "get", slow)
    await users.update(caller, user.id, disabled=False, name="Ann")
    found = await users.get(operator(), user.id)
    assert (found.disabled, found.name) == (True, "Ann")


async def test_a_key_does_not_widen_itself() -> None:
    for name, (terms, _, further) in RESTRICTIONS.items():
        house = House()
        caller = await house.admin(terms)
        for wider in further:
            changes = {"grants": wider.grants or KeyGrants(), "expire_time": wider.expire_time}
            if name == "expire_time":
                changes = {"expire_time": wider.expire_time or at(1_000)}
            with pytest.raises(Forbidden):
                await house.keys.update(caller, caller.key_id, **changes)


async def test_who_is_above_the_caller_gets_no_key() -> None:
    house = House()
    admin = await house.admin(Terms())
    above = await house.accounts.users.create(operator(), "op@acme.test", role=OPERATOR)
    beside = await house.accounts.users.create(operator(), "ad@acme.test", role=ADMIN)
    with pytest.raises(Forbidden, match="role"):
        await house.keys.create(admin, "x", user_id=above.id)
    key, _ = await house.keys.create(admin, "x", user_id=beside.id)
    assert key.user_id == beside.id


@pytest.mark.parametrize("name", RESTRICTIONS)
async def test_who_is_restricted_lets_nobody_log_in(name: str) -> None:
    house = House()
    caller = await house.admin(RESTRICTIONS[name][0])
    users = house.accounts.users
    user = await users.create(caller, "a@acme.test")
    assert (await users.update(caller, user.id, disabled=True)).disabled
    attempts: list[Awaitable[Any]] = [
        users.create(caller, "b@acme.test", PASSWORD),
        users.create(caller, "b@acme.test", role=ADMIN),
        users.update(caller, user.id, password=PASSWORD),
        users.update(caller, user.id, role=ADMIN),
        users.update(caller, user.id, disabled=False),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden) as refused:
            await attempt
        assert refused.value.metadata == {"restricted": name}
    assert not (await users.update(await house.admin(Terms()), user.id, disabled=False)).disabled


# Any acts after each other, against what keys let through.

SCOPES = ("runs", "runs.read", "account", "account.read")
MODELS = ("", "a", "ab", "b", "abc", "cab")
PROVIDERS = ("p", "q")
TIMES = (at(5), at(15), at(25), at(10_000))
SERVER_LIMITS = (1, 4, 7, math.inf)
"""What the server's own limit might be."""

terms = st.builds(
    Terms,
    st.none()
    | st.builds(
        KeyGrants,
        scopes=st.lists(st.sampled_from(SCOPES), max_size=2),
        models=st.lists(st.text("ab*", min_size=1, max_size=3), max_size=2),
        providers=st.lists(st.sampled_from(PROVIDERS), max_size=2),
        limits=st.builds(RateLimits, tokens_per_minute=st.sampled_from((-1, 0, 3, 5))),
    ),
    st.sampled_from((None, at(10), at(20), at(30))),
)
acts = st.lists(
    st.tuples(st.integers(0, 2), st.booleans() | st.none(), terms, st.booleans(), st.booleans()), min_size=1, max_size=6
)


def let_through(key: KeyRecord, *, of_caller: bool = False) -> set[tuple[object, ...]]:
    """All that may be done with a key."""
    if key.disabled:
        return set()
    grants = key.grants or KeyGrants()
    scopes = [s for s in SCOPES if not grants.scopes or has_scope(frozenset(grants.scopes), s)]
    models = [m for m in MODELS if permits_model(grants, m)]  # type: ignore[arg-type]  # it has models too
    providers = [p for p in PROVIDERS if not grants.providers or p in grants.providers]
    times = [time for time in TIMES if key.expire_time is None or time < key.expire_time]
    most = grants.limits.tokens_per_minute
    rates = [
        (own, rate)
        for own in SERVER_LIMITS
        for rate in (2, 4, 6, 8)
        if rate <= (math.inf if most == -1 or (most == 0 and of_caller) else most or own)
    ]
    return set(product(scopes, models, providers, times, rates))


@settings(max_examples=150)
@given(own=terms, others=st.lists(terms, min_size=2, max_size=2), acts=acts)
def test_whatever_is_done_no_key_lets_more_through_than_it_did_or_than_its_keeper_may(
    own: Terms, others: list[Terms], acts: list[tuple[int, bool | None, Terms, bool, bool]]
) -> None:
    async def act() -> None:
        house = House()
        caller = await house.admin(own)
        mine = await house.keys.get(operator(), caller.key_id)
        most = let_through(mine, of_caller=True)
        ids = [caller.key_id, *[(await house.make(one))[0].id for one in others]]
        await house.keys.update(operator(), ids[1], disabled=True)
        for number, disabled, wanted, change_grants, is_new in acts:
            if number == 0 and disabled:
                disabled = None  # who disables their own key is done
            before = await house.keys.get(operator(), ids[number])
            try:
                if is_new:
                    after, _ = await house.make(wanted, caller=caller)
                    before = replace(after, disabled=True)
                else:
                    grants = (wanted.grants or KeyGrants()) if change_grants else None
                    after = await house.keys.update(
                        caller, before.id, disabled=disabled, grants=grants, expire_time=wanted.expire_time
                    )
            except Forbidden:
                continue
            now = let_through(after)
            assert now <= let_through(before) or now <= most

    asyncio.run(act())
