"""Who may manage what: nobody grants more than they have, and what belongs to others does not exist."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyGrants, KeyRole, RateLimits
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.caller import Caller, Grants
from dragoman_server.errors import Conflict, DragomanError, Forbidden, InvalidRequest, NotFound, Unauthenticated
from dragoman_server.store.memory import MemoryStore

MEMBER, ADMIN, OPERATOR = KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN, KeyRole.KEY_ROLE_OPERATOR
PASSWORD = "correct horse"
TOO_LOW = RateLimits(tokens_per_minute=-2)


@dataclass
class House:
    accounts: Accounts
    admin: Caller
    other: str = "other"

    async def audit(self, account_id: str) -> list[tuple[str, str, str]]:
        entries, _ = await self.accounts.tenants.audit_entries(operator(), account_id=account_id)
        return [(entry.action, entry.target, entry.actor) for entry in entries]


@pytest.fixture
async def house() -> House:
    accounts = Accounts(MemoryStore(), plans=("pro",))
    for account_id in ("acme", "other"):
        await accounts.tenants.create(operator(), account_id.title(), account_id)
    _, secret = await accounts.keys.create(operator(), "admin", ADMIN, account_id="acme")
    return House(accounts, await accounts.authenticate(secret))


async def test_an_admin_manages_their_own_account_only(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    key, _ = await accounts.keys.create(admin, "mine")
    user = await accounts.users.create(admin, "a@acme.test")
    assert (key.account_id, user.account_id) == ("acme", "acme")
    theirs, _ = await accounts.keys.create(operator(), "theirs", account_id="other")
    them = await accounts.users.create(operator(), "a@other.test", account_id="other")
    for named in ("other", "nobody"):
        for attempt in (
            accounts.keys.create(admin, "x", account_id=named),
            accounts.keys.page(admin, account_id=named),
            accounts.keys.update(admin, theirs.id, disabled=True, account_id=named),
            accounts.keys.revoke(admin, theirs.id, account_id=named),
            accounts.users.create(admin, "b@acme.test", account_id=named),
            accounts.users.page(admin, account_id=named),
            accounts.users.get(admin, them.id, account_id=named),
            accounts.users.update(admin, them.id, disabled=True, account_id=named),
            accounts.users.delete(admin, them.id, account_id=named),
            accounts.tenants.get(admin, named),
            accounts.tenants.audit_entries(admin, account_id=named),
            accounts.tenants.update(admin, named, name="x"),
            accounts.tenants.delete(admin, named),
        ):
            with pytest.raises(NotFound):
                await attempt
    for attempt in (
        accounts.keys.revoke(admin, theirs.id),
        accounts.keys.update(admin, theirs.id, name="x"),
        accounts.users.get(admin, them.id),
        accounts.users.update(admin, them.id, name="x"),
        accounts.users.delete(admin, them.id),
        accounts.keys.create(admin, "x", user_id=them.id),
    ):
        with pytest.raises(NotFound):
            await attempt
    attempts: list[Any] = [
        accounts.tenants.update(admin, "acme", name="x"),
        accounts.tenants.update(admin, "acme", plan="pro"),
        accounts.tenants.create(admin, "x"),
        accounts.tenants.page(admin),
    ]
    for one in attempts:
        with pytest.raises(Forbidden):
            await one


async def test_nobody_grants_a_role_above_their_own(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    user = await accounts.users.create(admin, "a@acme.test")
    for attempt in (
        accounts.keys.create(admin, "x", OPERATOR),
        accounts.users.create(admin, "b@acme.test", role=OPERATOR),
        accounts.users.update(admin, user.id, role=OPERATOR),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert (await accounts.users.update(admin, user.id, role=ADMIN)).role == ADMIN


async def test_nobody_changes_who_is_above_them(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    key, secret = await accounts.keys.create(operator(), "operator", OPERATOR, account_id="acme")
    user = await accounts.users.create(operator(), "op@acme.test", PASSWORD, role=OPERATOR, account_id="acme")
    for attempt in (
        accounts.keys.revoke(admin, key.id),
        accounts.keys.update(admin, key.id, disabled=True),
        accounts.users.update(admin, user.id, password="taken over"),
        accounts.users.update(admin, user.id, role=MEMBER),
        accounts.users.delete(admin, user.id),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert (await accounts.authenticate(secret)).role == OPERATOR


async def test_a_restricted_credential_grants_no_more_than_it_has(house: House) -> None:
    accounts = house.accounts
    grants = Grants(frozenset({"account", "runs.read"}), ("small-*",), frozenset({"local"}))
    caller = Caller("acme", "", ADMIN, grants=grants)
    good = KeyGrants(scopes=["account.read"], models=["small-*"], providers=["local"])
    key, _ = await accounts.keys.create(caller, "x", grants=good)
    assert key.grants == good
    for wider in (
        None,
        KeyGrants(),
        KeyGrants(scopes=["runs"], models=["small-*"], providers=["local"]),
        KeyGrants(scopes=["runs.read"], providers=["local"]),
        KeyGrants(scopes=["runs.read"], models=["*"], providers=["local"]),
        KeyGrants(scopes=["runs.read"], models=["small-*"], providers=["local", "remote"]),
    ):
        with pytest.raises(Forbidden):
            await accounts.keys.create(caller, "x", grants=wider)
        if wider is not None:
            with pytest.raises(Forbidden):
                await accounts.keys.update(caller, key.id, grants=wider)


@pytest.mark.parametrize(
    "grants",
    [Grants(scopes=frozenset({"account"})), Grants(models=("small-*",)), Grants(providers=frozenset({"local"}))],
)
async def test_a_restricted_credential_makes_no_user_who_may_do_more(house: House, grants: Grants) -> None:
    users = house.accounts.users
    caller = Caller("acme", "", ADMIN, grants=grants)
    user = await users.create(caller, "a@acme.test")
    for wider in (
        users.create(caller, "b@acme.test", PASSWORD),
        users.create(caller, "b@acme.test", role=ADMIN),
        users.update(caller, user.id, password=PASSWORD),
        users.update(caller, user.id, role=ADMIN),
    ):
        with pytest.raises(Forbidden, match="restricted"):
            await wider
    assert (await users.update(caller, user.id, name="Ada", role=MEMBER, disabled=True)).disabled
    assert (await users.update(house.admin, user.id, password=PASSWORD, role=ADMIN)).role == ADMIN


async def test_a_key_is_no_more_than_its_user(house: House) -> None:
    accounts = house.accounts
    user = await accounts.users.create(operator(), "a@acme.test", account_id="acme")
    _, secret = await accounts.keys.create(operator(), "x", ADMIN, account_id="acme", user_id=user.id)
    caller = await accounts.authenticate(secret)
    assert (caller.role, caller.user_id) == (MEMBER, user.id)
    await accounts.users.update(operator(), user.id, disabled=True, account_id="acme")
    with pytest.raises(Forbidden) as refused:
        await accounts.authenticate(secret)
    assert refused.value.reason is Reason.ACCOUNT_DISABLED
    await accounts.users.delete(operator(), user.id, account_id="acme")
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(secret)


async def test_a_key_can_be_changed_and_counts_at_once(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    key, secret = await accounts.keys.create(admin, "x")
    await accounts.authenticate(secret)
    grants = KeyGrants(scopes=["runs"], models=["a*"], limits=RateLimits(requests_per_minute=3))
    assert (await accounts.keys.update(admin, key.id, name="y", grants=grants)).name == "y"
    caller = await accounts.authenticate(secret)
    assert caller.grants == Grants(frozenset({"runs"}), ("a*",))
    assert caller.key_limits == RateLimits(requests_per_minute=3)
    await accounts.keys.update(admin, key.id, disabled=True)
    with pytest.raises(Unauthenticated) as refused:
        await accounts.authenticate(secret)
    assert refused.value.reason is Reason.API_KEY_REVOKED
    await accounts.keys.update(admin, key.id, disabled=False, grants=KeyGrants())
    assert (await accounts.authenticate(secret)).grants == Grants()


async def test_an_account_can_be_changed_and_counts_at_once(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    _, secret = await accounts.keys.create(admin, "x")
    assert (await accounts.authenticate(secret)).plan == ""
    limits = RateLimits(concurrent_runs=-1)
    account = await accounts.tenants.update(operator(), "acme", plan="pro", limits=limits)
    assert account.plan_start_time is not None
    caller = await accounts.authenticate(secret)
    assert (caller.plan, caller.account_limits) == ("pro", limits)
    same = await accounts.tenants.update(operator(), "acme", plan="pro", name="Acme & Co")
    assert same.plan_start_time == account.plan_start_time
    ended = await accounts.tenants.update(operator(), "acme", plan="")
    assert (ended.plan, ended.plan_start_time) == ("", None)
    await accounts.tenants.update(operator(), "acme", disabled=True)
    assert accounts.cached(secret) is None
    with pytest.raises(Forbidden) as refused:
        await accounts.authenticate(secret)
    assert refused.value.reason is Reason.ACCOUNT_DISABLED


async def test_an_erased_account_is_gone_with_all_that_is_in_it(house: House) -> None:
    accounts = house.accounts
    _, secret = await accounts.keys.create(house.admin, "x")
    user = await accounts.users.create(house.admin, "a@acme.test")
    await accounts.authenticate(secret)
    await accounts.tenants.delete(operator(), "acme")
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(secret)
    for attempt in (
        accounts.tenants.get(operator(), "acme"),
        accounts.users.get(operator(), user.id, account_id="acme"),
        accounts.keys.create(operator(), "x", account_id="acme"),
        accounts.tenants.delete(operator(), "acme"),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert (await house.audit("acme"))[0] == ("account.delete", "acme", "operator")
    again = await accounts.users.create(operator(), "a@acme.test", account_id="other")
    assert again.email == "a@acme.test"


@pytest.mark.parametrize(
    ("field", "attempt"),
    [
        ("account_id", lambda a: a.tenants.create(operator(), "x", "sub:someone")),
        ("account_id", lambda a: a.tenants.create(operator(), "x", "a/b")),
        ("account_id", lambda a: a.tenants.create(operator(), "x", "a" * 129)),
        ("name", lambda a: a.tenants.create(operator(), "")),
        ("plan", lambda a: a.tenants.create(operator(), "x", plan="unknown")),
        ("plan", lambda a: a.tenants.update(operator(), "acme", plan="unknown")),
        ("limits.tokens_per_minute", lambda a: a.tenants.create(operator(), "x", limits=TOO_LOW)),
        ("email", lambda a: a.users.create(operator(), "")),
        ("email", lambda a: a.users.create(operator(), "no address")),
        ("email", lambda a: a.users.create(operator(), "a@b\u0000")),
        ("email", lambda a: a.users.create(operator(), "a@" + "b" * 300)),
        ("password", lambda a: a.users.create(operator(), "a@b", "short")),
        ("password", lambda a: a.users.create(operator(), "a@b", "p" * 257)),
        ("name", lambda a: a.users.create(operator(), "a@b", name="n" * 129)),
        ("role", lambda a: a.users.create(operator(), "a@b", role=99)),
        ("grants.scopes[1]", lambda a: a.keys.create(operator(), "x", grants=KeyGrants(scopes=["runs", "all"]))),
        ("grants.models", lambda a: a.keys.create(operator(), "x", grants=KeyGrants(models=[""]))),
        ("grants.providers", lambda a: a.keys.create(operator(), "x", grants=KeyGrants(providers=["p"] * 101))),
        ("page_token", lambda a: a.users.page(operator(), page_token="nonsense")),
        ("page_size", lambda a: a.tenants.page(operator(), -1)),
        ("page_token", lambda a: a.tenants.audit_entries(operator(), page_token="WzFd")),
    ],
)
async def test_what_is_out_of_bounds_is_named(house: House, field: str, attempt: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await attempt(house.accounts)
    assert refused.value.field == field


async def test_what_would_lock_one_out_or_is_taken_is_refused(house: House) -> None:
    accounts = house.accounts
    user = await accounts.users.create(operator(), "a@b.test", role=ADMIN)
    self = Caller("default", "", ADMIN, user_id=user.id)
    for attempt in (
        accounts.tenants.delete(operator(), "default"),
        accounts.tenants.delete(operator("acme"), "acme"),
        accounts.tenants.update(operator(), "default", disabled=True),
        accounts.tenants.create(operator(), "again", "acme"),
        accounts.users.create(operator(), "A@B.test", account_id="acme"),
        accounts.users.update(self, user.id, disabled=True),
        accounts.users.delete(self, user.id),
    ):
        with pytest.raises(Conflict):
            await attempt


async def test_a_user_sees_themselves_and_nobody_else(house: House) -> None:
    accounts = house.accounts
    mine = await accounts.users.create(operator(), "a@acme.test", account_id="acme")
    other = await accounts.users.create(operator(), "b@acme.test", account_id="acme")
    caller = Caller("acme", "", MEMBER, user_id=mine.id)
    assert await accounts.users.get(caller) == await accounts.users.get(caller, mine.id) == mine
    for attempt in (
        accounts.users.page(caller),
        accounts.users.update(caller, mine.id, role=ADMIN),
        accounts.users.delete(caller, other.id),
        accounts.tenants.audit_entries(caller),
    ):
        with pytest.raises(Forbidden):
            await attempt
    for missing in (accounts.users.get(operator()), accounts.users.get(caller, other.id)):
        with pytest.raises(NotFound):
            await missing
    with pytest.raises(DragomanError):
        await accounts.users.get(caller, mine.id + "x")


async def test_every_act_has_its_audit_entry_and_no_secret_in_it(house: House) -> None:
    accounts, admin = house.accounts, house.admin
    key, secret = await accounts.keys.create(admin, "x", account_id="acme")
    await accounts.keys.update(admin, key.id, disabled=True)
    for _ in range(2):
        await accounts.keys.revoke(admin, key.id)
    user = await accounts.users.create(admin, "a@acme.test", PASSWORD)
    await accounts.users.update(admin, user.id, password="battery staple", role=ADMIN)
    await accounts.users.delete(admin, user.id)
    await accounts.tenants.update(operator(), "acme", name="Acme & Co")
    by = admin.key_id
    assert await house.audit("acme") == [
        ("account.update", "acme", "operator"),
        ("user.delete", user.id, by),
        ("user.update", user.id, by),
        ("user.create", user.id, by),
        ("key.revoke", key.id, by),
        ("key.update", key.id, by),
        ("key.create", key.id, by),
        ("key.create", admin.key_id, "operator"),
        ("account.create", "acme", "operator"),
    ]
    entries, _ = await accounts.tenants.audit_entries(operator(), account_id="acme")
    for hidden in (secret, PASSWORD, "battery staple", "argon2", key.secret_hash.hex()):
        assert hidden not in repr(entries)
    assert await house.audit("other") == [("account.create", "other", "operator")]


async def test_pages_of_users_accounts_and_entries_hold_each_once(house: House) -> None:
    accounts = house.accounts
    users = [await accounts.users.create(operator(), f"u{number}@acme.test", account_id="acme") for number in range(5)]

    async def pages(call: Any, size: int) -> list[str]:
        found, token = [], ""
        while True:
            page, token = await call(size, token)
            assert len(page) <= size
            found += [row.id for row in page]
            if not token:
                return found

    for size in (1, 2, 5, 6):
        of_acme = lambda n, t: accounts.users.page(operator(), n, t, account_id="acme")  # noqa: E731
        assert await pages(of_acme, size) == [user.id for user in users]
        everyone = await pages(lambda n, t: accounts.tenants.page(operator(), n, t), size)
        assert everyone == ["default", "acme", "other"]
        entries = await pages(lambda n, t: accounts.tenants.audit_entries(operator(), n, t, account_id="acme"), size)
        assert entries == sorted(entries, reverse=True)
        assert len(entries) == 7


async def test_who_has_scopes_exports_nothing(house: House) -> None:
    restricted = replace(house.admin, grants=Grants(scopes=frozenset({"account.read"})))
    with pytest.raises(Forbidden):
        await anext(house.accounts.exports.account(restricted))
    assert b'"accounts"' in await anext(house.accounts.exports.account(house.admin))
