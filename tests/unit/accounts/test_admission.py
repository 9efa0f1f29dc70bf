"""Letting a call through at once: what `admit` lets in, `intercept_service` would, and as the same caller."""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass

import pytest

from dragoman_server.accounts.authentication import ACCEPTED_TTL
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.api.interceptors import HEALTH_METHODS, AuthInterceptor, call_id_var, caller_var
from dragoman_server.caller import Caller
from dragoman_server.store.memory import MemoryStore

METHOD = "/dragoman.v1.RunService/ExecuteRun"


@dataclass(frozen=True)
class Admission:
    """What became of a call, and what its context then says."""

    admitted: bool
    caller: Caller | None = None
    call_id: str = ""


REFUSED = Admission(admitted=False)


class House:
    """Accounts with one key, whose secret was found good a moment ago."""

    def __init__(self, secret: str, key_id: str, accounts: Accounts, clock: list[float]) -> None:
        self.secret, self.key_id, self.accounts, self.clock = secret, key_id, accounts, clock
        self._interceptor = AuthInterceptor(accounts)

    def admit(self, *metadata: tuple[str, str | bytes], method: str = METHOD) -> Admission:
        def call() -> Admission:
            admitted = self._interceptor.admit(method, metadata)
            return Admission(admitted, caller_var.get(None), call_id_var.get())

        return copy_context().run(call)


@pytest.fixture
async def house() -> House:
    clock = [100.0]
    accounts = Accounts(MemoryStore(), monotonic=lambda: clock[0])
    key, secret = await accounts.keys.create(operator(), "mine")
    await accounts.authenticate(secret)
    return House(secret, key.id, accounts, clock)


async def test_a_key_found_good_a_moment_ago_is_let_in(house: House) -> None:
    caller = await house.accounts.authenticate(house.secret)
    bearer = ("authorization", f"Bearer {house.secret}")
    assert house.admit(bearer) == Admission(admitted=True, caller=caller)
    assert house.admit(("x-api-key", house.secret), ("x-request-id", "call-1")) == Admission(True, caller, "call-1")
    assert house.admit(bearer, ("x-request-id", "not a name")) == Admission(admitted=True, caller=caller)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", "{secret}x")],
        [("authorization", "Basic {secret}")],
        [("authorization", "{secret}")],
        [("authorization", "Bearer {secret}"), ("x-api-key", "another")],
    ],
)
async def test_all_others_must_wait(house: House, metadata: list[tuple[str, str]]) -> None:
    assert house.admit(*((name, value.format(secret=house.secret)) for name, value in metadata)) == REFUSED


async def test_a_new_key_must_be_looked_up_first(house: House) -> None:
    _, secret = await house.accounts.keys.create(operator(), "new")
    assert house.admit(("x-api-key", secret)) == REFUSED
    await house.accounts.authenticate(secret)
    assert house.admit(("x-api-key", secret)).admitted


async def test_what_was_found_holds_for_a_while_and_not_after_a_revocation(house: House) -> None:
    credential = ("x-api-key", house.secret)
    house.clock[0] += ACCEPTED_TTL - 0.001
    assert house.admit(credential).admitted
    house.clock[0] += 0.001
    assert house.admit(credential) == REFUSED
    await house.accounts.authenticate(house.secret)
    assert house.admit(credential).admitted
    await house.accounts.keys.revoke(operator(), house.key_id)
    assert house.admit(credential) == REFUSED


async def test_a_public_method_needs_no_key_and_has_no_caller(house: House) -> None:
    for method in HEALTH_METHODS:
        assert house.admit(method=method) == Admission(admitted=True)
        assert house.admit(("x-api-key", house.secret), method=method) == Admission(admitted=True)
