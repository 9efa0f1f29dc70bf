from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts import authentication
from dragoman_server.accounts.authentication import ACCEPTED_TTL, REFUSED_TTL
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.secrets import secret_hash
from dragoman_server.accounts.service import Accounts
from dragoman_server.caller import Caller
from dragoman_server.errors import Unauthenticated, Unavailable
from dragoman_server.store.identity.memory import MemoryKeys
from dragoman_server.store.memory import MemoryStore

if TYPE_CHECKING:
    from dragoman_server.store.identity.records import KeyRecord


class CountingKeys(MemoryKeys):
    """Counts the queries for a credential, can hold them back or fail them."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store.identity.keys._rows)
        self.queries = 0
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def find(self, secret_hash: bytes) -> KeyRecord | None:
        self.queries += 1
        found = await super().find(secret_hash)  # read first, answered later: the window in which a key may change
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return found


@dataclass
class House:
    """Accounts over a store, with two clocks that stand still until moved."""

    now: float = 1_790_000_000.0
    monotonic: float = 100.0

    def __post_init__(self) -> None:
        store = MemoryStore()
        self.keys = store.identity.keys = CountingKeys(store)
        self.accounts = Accounts(store, clock=lambda: self.now, monotonic=lambda: self.monotonic)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic += seconds

    async def reason(self, credential: str) -> Reason:
        with pytest.raises(Unauthenticated) as refused:
            await self.accounts.authenticate(credential)
        assert self.accounts.cached(credential) is None
        return refused.value.reason


@pytest.fixture
async def house() -> House:
    return House()


async def test_a_key_is_its_caller(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine", KeyRole.KEY_ROLE_ADMIN)
    assert house.accounts.cached(secret) is None
    expected = Caller("default", key.id, KeyRole.KEY_ROLE_ADMIN)
    assert await house.accounts.authenticate(secret) == expected
    assert house.accounts.cached(secret) == expected


async def test_what_is_wrong_has_its_reason(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "mine")
    assert await house.reason("") == Reason.API_KEY_MISSING
    for wrong in ("x", secret + "x", secret[:-1], secret.upper(), f" {secret}", "\ud800", "ключ", "k" * 100_000):
        assert await house.reason(wrong) == Reason.API_KEY_INVALID


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
async def test_no_text_but_the_secret_gets_in(credential: str) -> None:
    house = House()
    await house.accounts.keys.create(operator(), "mine")
    token = credential.count(".") >= 2
    assert await house.reason(credential) == (Reason.TOKEN_INVALID if token else Reason.API_KEY_INVALID)


async def test_expiry_is_exact_whether_cached_or_not(house: House) -> None:
    expire_time = int((house.now + 1) * 1_000_000)
    _, secret = await house.accounts.keys.create(operator(), "short", expire_time=expire_time)
    assert await house.accounts.authenticate(secret)
    house.pass_time(0.999)
    assert house.accounts.cached(secret)
    assert await house.accounts.authenticate(secret)
    house.pass_time(0.001)
    assert await house.reason(secret) == Reason.API_KEY_EXPIRED
    house.pass_time(REFUSED_TTL + ACCEPTED_TTL)
    assert await house.reason(secret) == Reason.API_KEY_EXPIRED


async def test_a_revocation_here_counts_at_once(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine")
    await house.accounts.authenticate(secret)
    await house.accounts.keys.revoke(operator(), key.id)
    assert house.accounts.cached(secret) is None
    assert await house.reason(secret) == Reason.API_KEY_REVOKED


async def test_a_revocation_elsewhere_counts_within_five_seconds(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine")
    await house.accounts.authenticate(secret)
    await house.keys.revoke("default", key.id, int(house.now * 1_000_000))
    assert house.accounts.cached(secret)
    assert ACCEPTED_TTL < 5
    house.pass_time(ACCEPTED_TTL)
    assert house.accounts.cached(secret) is None
    assert await house.reason(secret) == Reason.API_KEY_REVOKED


async def test_a_clock_set_back_prolongs_no_trust(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine")
    await house.accounts.authenticate(secret)
    await house.keys.revoke("default", key.id, int(house.now * 1_000_000))
    house.now -= 3600
    house.monotonic += ACCEPTED_TTL
    assert await house.reason(secret) == Reason.API_KEY_REVOKED


async def test_the_store_is_asked_once_in_a_while(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "mine")
    for _ in range(10):
        await house.accounts.authenticate(secret)
        await house.reason("wrong")
    assert house.keys.queries == 2
    house.pass_time(max(ACCEPTED_TTL, REFUSED_TTL))
    for _ in range(10):
        await house.accounts.authenticate(secret)
        await house.reason("wrong")
    assert house.keys.queries == 4


async def test_calls_that_come_together_share_one_query(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "mine")
    house.keys.open.clear()
    calls = [asyncio.create_task(house.accounts.authenticate(secret)) for _ in range(50)]
    await asyncio.sleep(0)
    calls[0].cancel()  # the one that asked first leaves; the others do not notice
    await asyncio.sleep(0)
    house.keys.open.set()
    first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert len(set(others)) == 1
    assert isinstance(others[0], Caller)
    assert house.keys.queries == 1


async def test_a_query_that_was_under_way_cannot_undo_a_revocation(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine")
    house.keys.open.clear()
    early = asyncio.create_task(house.accounts.authenticate(secret))
    await asyncio.sleep(0.01)  # it has read the key, and not told yet
    await house.accounts.keys.revoke(operator(), key.id)
    late = asyncio.create_task(house.accounts.authenticate(secret))
    await asyncio.sleep(0.01)
    house.keys.open.set()
    assert await early  # it came before the revocation
    with pytest.raises(Unauthenticated, match="revoked"):
        await late
    assert house.accounts.cached(secret) is None
    assert await house.reason(secret) == Reason.API_KEY_REVOKED


async def test_a_store_that_fails_is_no_wrong_key_and_is_asked_again(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "mine")
    house.keys.failure = Unavailable("the database does not answer; try again")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await house.accounts.authenticate(secret)
    house.keys.failure = None
    assert await house.accounts.authenticate(secret)
    assert house.keys.queries == 3


async def test_a_credential_that_becomes_a_key_is_accepted_at_once(house: House) -> None:
    assert await house.reason("a secret of my own") == Reason.API_KEY_INVALID
    chosen = "a-secret-of-my-own"
    assert await house.reason(chosen) == Reason.API_KEY_INVALID
    await house.accounts.keys.bootstrap(chosen)
    assert await house.accounts.authenticate(chosen)


async def test_memory_is_bounded_and_a_flood_displaces_no_good_key(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_REFUSED", 10)
    monkeypatch.setattr(authentication, "MAX_ACCEPTED", 3)
    secrets = [(await house.accounts.keys.create(operator(), "mine"))[1] for _ in range(4)]
    for secret in secrets:
        await house.accounts.authenticate(secret)
    assert [house.accounts.cached(secret) is not None for secret in secrets] == [False, True, True, True]
    for number in range(50):
        await house.reason(f"wrong {number}")
    assert house.accounts.cached(secrets[-1])
    authenticator = house.accounts._authenticator
    assert (len(authenticator._accepted), len(authenticator._refused), len(authenticator._lookups)) == (3, 10, 0)
    house.keys.queries = 0
    await house.reason("wrong 49")
    assert house.keys.queries == 0


async def test_a_row_that_does_not_match_its_hash_lets_nobody_in(house: House) -> None:
    key, secret = await house.accounts.keys.create(operator(), "mine")
    house.keys._rows.key_hashes[secret_hash("other")] = replace(key)  # a store that answers with another key
    assert await house.reason("other") == Reason.API_KEY_INVALID
    assert await house.accounts.authenticate(secret)


async def test_the_cache_keeps_no_secret(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "mine")
    await house.accounts.authenticate(secret)
    assert house.accounts.cached(secret)
    await house.reason("a wrong secret")
    authenticator = house.accounts._authenticator
    kept = repr(vars(authenticator))
    assert secret not in kept
    assert "a wrong secret" not in kept


async def test_a_welcome_that_failed_is_made_up_for() -> None:
    store, welcomed = MemoryStore(), []

    async def welcome(account_id: str) -> None:
        welcomed.append(account_id)
        if len(welcomed) < 3:
            raise Unavailable("the database does not answer")

    accounts = Accounts(store, welcome=welcome)
    with pytest.raises(Unavailable):
        await accounts.tenants.create(operator(), "Acme", "acme")
    _, secret = await accounts.keys.create(operator(), "key", account_id="acme")
    with pytest.raises(Unavailable):
        await accounts.authenticate(secret)
    for _ in range(2):
        await Accounts(store, welcome=welcome).authenticate(secret)
    assert welcomed == ["acme"] * 3


async def test_accounts_of_old_are_not_welcomed() -> None:
    store, welcomed = MemoryStore(), []

    async def welcome(account_id: str) -> None:
        welcomed.append(account_id)

    accounts = Accounts(store, welcome=welcome)
    _, secret = await accounts.keys.create(operator(), "key")
    await accounts.authenticate(secret)
    assert welcomed == []
