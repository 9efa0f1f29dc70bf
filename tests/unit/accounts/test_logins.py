"""Logins with name and password: what they give, what is refused, and how a copied refresh token is noticed."""

from __future__ import annotations

import asyncio
import functools
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts import passwords
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.logins import LoginTokens, Throttle
from dragoman_server.accounts.service import Accounts
from dragoman_server.errors import DragomanError, Forbidden, RateLimited, Unauthenticated, Unavailable, Unimplemented
from dragoman_server.settings import AuthSettings, LoginSettings
from dragoman_server.store.identity.records import UserRecord
from dragoman_server.store.memory import MemoryStore

NOW = 1_790_000_000.0
EMAIL, PASSWORD = "Ada@Example.com", "correct horse"
ACCESS_TTL, REFRESH_TTL = 900.0, 3600.0


@dataclass
class House:
    store: MemoryStore
    accounts: Accounts
    now: float = NOW
    user: Any = None

    async def login(self, email: str = EMAIL, password: str = PASSWORD) -> LoginTokens:
        return (await self.accounts.logins.login(email, password))[0]

    async def reason(self, attempt: Any) -> Reason:
        with pytest.raises(DragomanError) as refused:
            await attempt
        return refused.value.reason


async def house_of(**settings: Any) -> House:
    store = MemoryStore()
    house: House
    login = LoginSettings(access_ttl=ACCESS_TTL, refresh_ttl=REFRESH_TTL, attempts=3, window=60, **settings)
    accounts = Accounts(
        store, AuthSettings(login=login), clock=lambda: house.now, monotonic=lambda: house.now - NOW + 1_000
    )
    house = House(store, accounts)
    await accounts.open()
    house.user = await accounts.users.create(operator(), EMAIL, PASSWORD, "Ada", KeyRole.KEY_ROLE_ADMIN)
    return house


REAL = passwords._hasher


@functools.cache
def cheap() -> PasswordHasher:
    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", cheap)


@pytest.fixture
async def house() -> House:
    return await house_of()


async def test_a_login_is_a_user_of_the_account(house: House) -> None:
    tokens, user = await house.accounts.logins.login(EMAIL.upper(), PASSWORD)
    assert user.id == house.user.id
    caller = await house.accounts.authenticate(tokens.access_token)
    assert (caller.account_id, caller.user_id, caller.key_id) == ("default", user.id, "")
    assert caller.role == KeyRole.KEY_ROLE_ADMIN
    assert house.accounts.cached(tokens.access_token) == caller
    assert tokens.expire_time == (NOW + ACCESS_TTL) * 1_000_000


async def test_an_access_token_expires_exactly(house: House) -> None:
    tokens = await house.login()
    house.now += ACCESS_TTL - 0.001
    assert await house.accounts.authenticate(tokens.access_token)
    house.now += 0.001
    assert await house.reason(house.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_EXPIRED


async def test_what_is_wrong_nobody_is_told(house: House) -> None:
    nobody = await house.accounts.users.create(operator(), "no@password.test")
    assert nobody.password_hash is None
    messages = set()
    for email, password in (
        (EMAIL, "wrong password"),
        (EMAIL, PASSWORD + "x"),
        ("no@password.test", PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("a\u0000b", "p" * 5_000),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await house.accounts.logins.login(email, password)
        assert refused.value.reason is Reason.LOGIN_FAILED
        messages.add(refused.value.message)
    assert len(messages) == 1


async def test_an_unknown_name_takes_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", REAL)
    house = await house_of()
    checked: list[str] = []
    matches = passwords._matches

    def counting(stored: str, password: bytes) -> bool:
        checked.append(stored.rpartition("$")[0].rpartition("$")[0])  # kind and parameters
        return matches(stored, password)

    monkeypatch.setattr(passwords, "_matches", counting)
    for email in (EMAIL, "nobody@example.com"):
        await house.reason(house.accounts.logins.login(email, "wrong password"))
    assert checked == ["$argon2id$v=19$m=65536,t=3,p=4"] * 2


async def test_a_refresh_token_is_good_once_and_gives_new_ones(house: House) -> None:
    first = await house.login()
    house.now += REFRESH_TTL - 1
    second = await house.accounts.logins.refresh(first.refresh_token)
    assert await house.accounts.authenticate(second.access_token)
    house.now += REFRESH_TTL - 1  # it begins anew with each use
    third = await house.accounts.logins.refresh(second.refresh_token)
    house.now += REFRESH_TTL
    assert await house.reason(house.accounts.logins.refresh(third.refresh_token)) is Reason.LOGIN_FAILED


async def test_a_refresh_token_that_comes_twice_ends_its_login(house: House) -> None:
    first, other = await house.login(), await house.login()
    second = await house.accounts.logins.refresh(first.refresh_token)
    assert await house.accounts.authenticate(second.access_token)
    assert await house.reason(house.accounts.logins.refresh(first.refresh_token)) is Reason.LOGIN_FAILED
    assert await house.reason(house.accounts.logins.refresh(second.refresh_token)) is Reason.LOGIN_FAILED
    for tokens in (first, second):
        assert await house.reason(house.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_INVALID
    assert await house.accounts.authenticate(other.access_token)


async def test_of_many_that_refresh_at_once_one_succeeds_at_most(house: House) -> None:
    tokens = await house.login()
    attempts = [house.accounts.logins.refresh(tokens.refresh_token) for _ in range(8)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, LoginTokens) for result in results) <= 1


@pytest.mark.parametrize("token", ["", "x", "dgr_", "dgr_login_" + "0" * 32 + "_" + "x" * 43, "dgr_login_\u0000", "ä"])
async def test_what_is_no_refresh_token_is_refused_and_logging_out_is_repeatable(house: House, token: str) -> None:
    assert await house.reason(house.accounts.logins.refresh(token)) is Reason.LOGIN_FAILED
    await house.accounts.logins.logout(token)


async def test_logging_out_ends_the_access_token_too(house: House) -> None:
    tokens = await house.login()
    await house.accounts.authenticate(tokens.access_token)
    for _ in range(2):
        await house.accounts.logins.logout(tokens.refresh_token)
    assert house.accounts.cached(tokens.access_token) is None
    assert await house.reason(house.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_INVALID
    assert await house.reason(house.accounts.logins.refresh(tokens.refresh_token)) is Reason.LOGIN_FAILED


async def test_a_new_password_ends_all_logins(house: House) -> None:
    tokens = await house.login()
    await house.accounts.authenticate(tokens.access_token)
    await house.accounts.users.update(operator(), house.user.id, password="battery staple")
    assert await house.reason(house.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_INVALID
    assert await house.reason(house.login()) is Reason.LOGIN_FAILED
    assert await house.login(password="battery staple")


async def test_who_is_disabled_is_refused_at_once(house: House) -> None:
    tokens = await house.login()
    await house.accounts.authenticate(tokens.access_token)
    await house.accounts.users.update(operator(), house.user.id, disabled=True)
    assert house.accounts.cached(tokens.access_token) is None
    assert await house.reason(house.accounts.authenticate(tokens.access_token)) in (
        Reason.ACCOUNT_DISABLED,
        Reason.TOKEN_INVALID,
    )
    with pytest.raises(Forbidden) as refused:
        await house.login()
    assert refused.value.reason is Reason.ACCOUNT_DISABLED
    assert await house.reason(house.login(password="wrong password")) is Reason.LOGIN_FAILED


async def test_an_erased_user_is_nobody(house: House) -> None:
    tokens = await house.login()
    await house.accounts.users.delete(operator(), house.user.id)
    assert await house.reason(house.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_INVALID
    assert await house.reason(house.accounts.logins.refresh(tokens.refresh_token)) is Reason.LOGIN_FAILED
    assert await house.reason(house.login()) is Reason.LOGIN_FAILED


async def test_many_failures_of_a_name_are_throttled_even_if_it_does_not_exist(house: House) -> None:
    for email in (EMAIL, "nobody@example.com"):
        for _ in range(3):
            assert await house.reason(house.login(email.swapcase(), "wrong password")) is Reason.LOGIN_FAILED
        with pytest.raises(RateLimited) as refused:
            await house.login(email)
        assert refused.value.retry_after == 60
    house.now += 60
    assert await house.login()


async def test_attempts_that_come_together_are_throttled_too(house: House) -> None:
    attempts = [house.login(password="wrong password") for _ in range(8)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["RateLimited"] * 5 + ["Unauthenticated"] * 3


async def test_good_logins_are_not_throttled(house: House) -> None:
    for _ in range(5):
        assert await house.login()


def test_the_throttle_counts_all_names_together_and_remembers_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman_server.accounts.logins.GLOBAL_FACTOR", 4)
    monkeypatch.setattr("dragoman_server.accounts.logins.MAX_NAMES", 5)
    now = [0.0]
    throttle = Throttle(2, 10, lambda: now[0])
    for number in range(8):
        throttle.check(str(number))
        throttle.attempted(str(number))
    assert len(throttle._failures) == 5
    with pytest.raises(RateLimited):
        throttle.check("another")
    now[0] = 10
    throttle.check("another")


async def test_a_password_that_is_changed_while_it_is_checked_logs_nobody_in(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    matches = passwords._matches

    def slow(stored: str, password: bytes) -> bool:
        begun.set()
        return go_on.wait(10) and matches(stored, password)

    monkeypatch.setattr(passwords, "_matches", slow)
    attempt = asyncio.create_task(house.reason(house.login()))
    try:
        assert await asyncio.to_thread(begun.wait, 10)
        await house.accounts.users.update(operator(), house.user.id, password="battery staple")
    finally:
        go_on.set()
    assert await attempt is Reason.LOGIN_FAILED


async def test_who_leaves_gets_no_more_passwords_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, lock = threading.Event(), threading.Lock()
    counts = {"running": 0, "most": 0, "begun": 0}

    def slow(stored: str, password: bytes) -> bool:
        with lock:
            counts["running"] += 1
            counts["begun"] += 1
            counts["most"] = max(counts["most"], counts["running"])
        go_on.wait(10)
        with lock:
            counts["running"] -= 1
        return True

    monkeypatch.setattr(passwords, "_matches", slow)
    checker = passwords.Passwords()
    try:
        for _ in range(8):
            task = asyncio.create_task(checker.matches("x", "y"))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        last = asyncio.create_task(checker.matches("x", "y"))
        await asyncio.sleep(0.01)
    finally:
        go_on.set()
    assert await asyncio.wait_for(last, 10)
    assert (counts["most"], counts["begun"]) == (passwords.AT_ONCE, passwords.AT_ONCE + 1)
    checker.close()


async def test_too_many_at_once_are_told_to_come_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 0)
    with pytest.raises(Unavailable):
        await house.login()


async def test_a_configured_secret_is_shared_and_another_one_is_not() -> None:
    secret = SecretStr("x" * 32)
    one, two, three = await house_of(secret=secret), await house_of(secret=secret), await house_of()
    tokens = await one.login()
    for house in (two, three):  # the same user and login there: only the signature decides
        house.store.identity = one.store.identity
        house.accounts._authenticator._store = one.store.identity
    assert await two.accounts.authenticate(tokens.access_token)
    assert await three.reason(three.accounts.authenticate(tokens.access_token)) is Reason.TOKEN_INVALID


async def test_logins_can_be_switched_off() -> None:
    house = await house_of(enabled=False)
    with pytest.raises(Unimplemented):
        await house.login()
    with pytest.raises(Unimplemented):
        await house.accounts.logins.refresh("dgr_x")


async def test_what_is_stored_and_shown_holds_no_password_and_no_token(house: House) -> None:
    tokens = await house.login()
    kept = repr(vars(house.store.identity._rows)) + repr(house.user)
    for hidden in (PASSWORD, tokens.refresh_token, tokens.refresh_token[-43:], house.user.password_hash, "argon2"):
        assert hidden not in kept
    assert isinstance(house.user, UserRecord)
