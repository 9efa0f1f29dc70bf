"""Letting a call through at once: what `admit` lets in, `intercept_service` would, and as the same caller."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.account_service_pb2 import KeyGrants
from dragoman_server.accounts.authentication import ACCEPTED_TTL
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.api import interceptors
from dragoman_server.api.interceptors import HEALTH_METHODS, AuthInterceptor, call_id_var, caller_var
from dragoman_server.caller import Caller
from dragoman_server.errors import Unauthenticated
from dragoman_server.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

METHOD = "/dragoman.v1.RunService/ExecuteRun"
CREATE_KEY = "/dragoman.v1.AccountService/CreateKey"


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
        """Asks an interceptor that has seen calls before, and one that has not: they must agree."""
        admission = admission_by(self._interceptor, method, metadata)
        assert admission == admission_by(AuthInterceptor(self.accounts), method, metadata)
        return admission


def admission_by(interceptor: AuthInterceptor, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Admission:
    def call() -> Admission:
        admitted = interceptor.admit(method, metadata)
        return Admission(admitted, caller_var.get(None), call_id_var.get())

    return copy_context().run(call)


BEARER = ("authorization", "Bearer {secret}")

PARTS = st.one_of(
    st.just([BEARER]),
    st.lists(
        st.sampled_from(
            [
                BEARER,
                ("authorization", "Bearer {other}"),
                ("authorization", "bearer  {secret} "),
                ("authorization", "Basic {secret}"),
                ("authorization", "Bearer {secret}x"),
                ("authorization", ""),
                ("x-api-key", "{secret}"),
                ("x-api-key", ""),
                ("api-key", "{other}"),
                ("x-request-id", "call-1"),
                ("x-request-id", "not a name"),
                ("traceparent", "00-1-2-01"),
            ]
        ),
        max_size=3,
    ),
)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([METHOD, METHOD, CREATE_KEY, "/x/Unknown"]), PARTS),
        st.sampled_from([0.0, 0.5, ACCEPTED_TTL]),
        st.sampled_from(["revoke", "disable", "enable", "restrict", "free"]),
    ),
    max_size=20,
)


@given(STEPS)
def test_what_is_remembered_changes_no_answer(steps: list[tuple[str, list[tuple[str, str]]] | float | str]) -> None:
    asyncio.run(play(steps))


async def play(steps: list[tuple[str, list[tuple[str, str]]] | float | str]) -> None:
    house = await a_house()
    other = (await house.accounts.keys.create(operator(), "other"))[1]
    secrets = {"secret": house.secret, "other": other}
    keys, revoked = house.accounts.keys, False
    for step in steps:
        if isinstance(step, tuple):
            method, parts = step
            house.admit(*((name, value.format(**secrets)) for name, value in parts), method=method)
        elif isinstance(step, float):
            house.clock[0] += step
        elif step == "revoke":
            await keys.revoke(operator(), house.key_id)
            revoked = True
            assert house.admit(bearer_of(house)) == REFUSED
        elif not revoked:
            if step in ("disable", "enable"):
                await keys.update(operator(), house.key_id, disabled=step == "disable")
            else:
                scopes = ["models"] if step == "restrict" else []
                await keys.update(operator(), house.key_id, grants=KeyGrants(scopes=scopes))
            assert house.admit(bearer_of(house)) == REFUSED  # until it is looked up again
        for secret in secrets.values():
            with suppress(Unauthenticated):
                await house.accounts.authenticate(secret)


def bearer_of(house: House) -> tuple[str, str]:
    return "authorization", f"Bearer {house.secret}"


@pytest.fixture
async def house() -> House:
    return await a_house()


async def a_house() -> House:
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


async def test_what_is_remembered_of_one_method_says_nothing_of_others(house: House) -> None:
    assert house.admit(bearer_of(house)).admitted
    assert house.admit(bearer_of(house)).admitted
    assert house.admit(bearer_of(house), method=CREATE_KEY) == REFUSED
    assert house.admit(bearer_of(house), method="/x/Unknown") == REFUSED


async def test_what_is_remembered_of_a_caller_ends_with_it(house: House) -> None:
    assert house.admit(bearer_of(house)).admitted
    await house.accounts.keys.update(operator(), house.key_id, grants=KeyGrants(scopes=["models"]))
    await house.accounts.authenticate(house.secret)
    assert house.admit(bearer_of(house)) == REFUSED
    assert house.admit(bearer_of(house), method="/dragoman.v1.CatalogService/ListModels").admitted


async def test_a_remembered_key_beside_another_one_is_refused(house: House) -> None:
    _, other = await house.accounts.keys.create(operator(), "other")
    await house.accounts.authenticate(other)
    known, unknown = bearer_of(house), ("authorization", f"Bearer {other}")
    for metadata in ([known], [unknown], [known, known]):
        assert house.admit(*metadata).admitted
    for metadata in ([known, unknown], [unknown, known], [known, ("api-key", other)], [("x-api-key", other), known]):
        assert house.admit(*metadata) == REFUSED


async def test_what_came_beside_a_good_key_is_not_remembered_as_one(house: House) -> None:
    for empty in ("", "Bearer", "Bearer "):
        assert house.admit(("authorization", empty), ("x-api-key", house.secret)).admitted
        assert house.admit(("authorization", empty)) == REFUSED


async def test_what_is_remembered_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "MAX_KNOWN", 2)
    secrets = [(await house.accounts.keys.create(operator(), f"key {number}"))[1] for number in range(4)]
    interceptor = AuthInterceptor(house.accounts)
    for _ in range(2):
        for secret in secrets:
            await house.accounts.authenticate(secret)
            for _ in range(2):
                assert admission_by(interceptor, METHOD, [("authorization", f"Bearer {secret}")]).admitted
    assert len(interceptor._known) == 2
