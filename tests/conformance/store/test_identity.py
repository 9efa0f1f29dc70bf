"""Accounts, users, logins, the audit log and the server's secrets: one suite for all stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dragoman.v1.account_service_pb2 import KeyGrants, KeyRole, RateLimits
from dragoman.v1.persona_service_pb2 import Persona
from dragoman_server.errors import Conflict, NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.base import Store
from dragoman_server.store.conversations.records import ConversationRecord, NewMessage, Owner
from dragoman_server.store.erasure import COVERED
from dragoman_server.store.export import owner_column
from dragoman_server.store.identity.records import (
    USER_DELETED,
    AccountRecord,
    AuditRecord,
    KeyRecord,
    LoginRecord,
    Standing,
    UserRecord,
)
from dragoman_server.store.tables import metadata
from dragoman_server.store.usage.records import UsageQuery, UsageRecord

NOW = 1_790_000_000_000_000
HASH = "$x"
ACME = AccountRecord("acme", NOW, "Acme", "pro", NOW, limits=RateLimits(concurrent_runs=-1))


def an_entry(account_id: str = "acme", action: str = "test") -> AuditRecord:
    return AuditRecord(new_id("aud"), account_id, NOW, "operator", action, "x", '{"ü": 1}')


def a_user(email: str | None = None, account_id: str = "acme", subject: str | None = None) -> UserRecord:
    password_hash, role = None if email is None else HASH, KeyRole.KEY_ROLE_MEMBER
    return UserRecord(new_id("user"), account_id, email, password_hash, subject, "Ünï", role, False, NOW)


def a_key(account_id: str = "acme", user_id: str | None = None) -> KeyRecord:
    key_id = new_id("key")
    grants = KeyGrants(scopes=["runs"], models=["a*"], limits=RateLimits(tokens_per_minute=2**40))
    role = KeyRole.KEY_ROLE_MEMBER
    return KeyRecord(key_id, account_id, "k", "p", key_id.encode(), role, NOW, user_id=user_id, grants=grants)


def a_login(user: UserRecord, expire_time: int = NOW + 100) -> LoginRecord:
    return LoginRecord(new_id("login"), user.account_id, user.id, b"hash", NOW, expire_time)


@pytest.fixture
async def acme(store: Store) -> Store:
    await store.identity.accounts.add(ACME, an_entry())
    return store


async def test_an_account_comes_back_as_it_was_kept_and_its_id_is_taken(acme: Store) -> None:
    accounts = acme.identity.accounts
    assert await accounts.get("acme") == ACME
    assert await accounts.get("nobody") is None
    with pytest.raises(Conflict):
        await accounts.add(replace(ACME, name="another"), an_entry("other"))
    assert await acme.identity.audit.page("other", limit=9) == []  # no entry of what was not done
    page = await accounts.page(limit=9)
    assert {account.id for account in page} == {"default", "acme"}
    assert await accounts.page(limit=9, after=(page[0].create_time, page[0].id)) == page[1:]


async def test_changes_and_their_entries_are_kept_together(acme: Store) -> None:
    accounts = acme.identity.accounts
    entry = an_entry(action="account.update")
    changed = await accounts.update("acme", {"disabled": True, "limits": None, "plan_start_time": None}, entry)
    assert changed == replace(ACME, disabled=True, limits=None, plan_start_time=None) == await accounts.get("acme")
    assert await accounts.update("nobody", {"name": "x"}, an_entry("nobody")) is None
    assert await acme.identity.audit.page("nobody", limit=9) == []
    assert (await acme.identity.audit.page("acme", limit=1)) == [entry]


async def test_users_come_back_page_and_belong_to_their_account(acme: Store) -> None:
    users = acme.identity.users
    made = [a_user(f"{number}@acme.test") for number in range(5)]
    for user in made:
        await users.add(user, an_entry())
    assert await users.get("acme", made[0].id) == await users.find("0@acme.test") == made[0]
    assert await users.get("default", made[0].id) is None
    assert await users.find("nobody@acme.test") is None
    first = await users.page("acme", limit=3)
    rest = await users.page("acme", limit=3, after=(first[-1].create_time, first[-1].id))
    assert first + rest == made
    assert await users.page("default", limit=9) == []
    assert await users.update("default", made[0].id, {"name": "x"}, an_entry("default")) is None
    assert not await users.erase("default", made[0].id, an_entry("default"))
    assert await acme.identity.audit.page("default", limit=9) == []
    changed = await users.update("acme", made[0].id, {"name": "Ada", "disabled": True}, an_entry())
    assert changed == replace(made[0], name="Ada", disabled=True) == await users.get("acme", made[0].id)
    with pytest.raises(Conflict):
        await users.add(a_user("0@acme.test", "default"), an_entry("default"))
    with pytest.raises(NotFound):
        await users.add(a_user("x@acme.test", "nobody"), an_entry("nobody"))


async def test_of_many_with_one_email_one_is_kept(acme: Store) -> None:
    attempts = (acme.identity.users.add(a_user("a@acme.test"), an_entry()) for _ in range(8))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(await acme.identity.users.page("acme", limit=9)) == 1


async def test_a_subject_is_made_once_with_its_account(store: Store) -> None:
    accounts = store.identity.accounts
    new = AccountRecord("sub:x", NOW, "sub:x")
    wanted = [a_user(account_id="sub:x", subject="x") for _ in range(8)]
    assert await accounts.ensure(new, wanted[0], make_account=False) is None
    found = await asyncio.gather(*(accounts.ensure(new, user, make_account=True) for user in wanted))
    standings = {standing.user.id for standing in found if standing is not None and standing.user is not None}
    assert len(standings) == 1
    assert len(await store.identity.users.page("sub:x", limit=9)) == 1
    other = a_user(account_id="sub:x", subject="y")
    assert await accounts.ensure(replace(new, name="another"), other, make_account=True) == Standing(new, other)


async def test_standing_is_account_user_and_login(acme: Store) -> None:
    accounts, user = acme.identity.accounts, a_user("a@acme.test")
    await acme.identity.users.add(user, an_entry())
    login = a_login(user)
    await acme.identity.logins.add(login, HASH)
    assert await accounts.standing("acme") == Standing(ACME)
    assert await accounts.standing("acme", user.id) == Standing(ACME, user)
    assert await accounts.standing("acme", user.id, login.id) == Standing(ACME, user)
    for wrong in (("nobody",), ("default", user.id), ("acme", "user_0"), ("acme", user.id, "login_0")):
        assert await accounts.standing(*wrong) is None
    await acme.identity.logins.end(login.id)
    assert await accounts.standing("acme", user.id, login.id) is None


async def test_a_login_rotates_once_for_each_token_and_ends(acme: Store) -> None:
    logins, user = acme.identity.logins, a_user("a@acme.test")
    await acme.identity.users.add(user, an_entry())
    login = a_login(user)
    await logins.add(login, HASH)
    assert await logins.get(login.id) == login
    results = await asyncio.gather(*(logins.rotate(login.id, b"hash", b"%d" % n, NOW + 200) for n in range(8)))
    assert results.count(True) == 1
    assert not await logins.rotate("login_0", b"hash", b"x", NOW)
    for _ in range(2):
        await logins.end(login.id)
    assert await logins.get(login.id) is None
    with pytest.raises(NotFound):
        await logins.add(replace(login, user_id="user_0"), HASH)


async def test_nobody_is_logged_in_with_a_password_that_was_changed_meanwhile(acme: Store) -> None:
    logins, users, user = acme.identity.logins, acme.identity.users, a_user("a@acme.test")
    nobody = a_user()
    await users.add(user, an_entry())
    await users.add(nobody, an_entry())
    for changes, refused in (({"disabled": True}, HASH), ({"disabled": False, "password_hash": "$y"}, HASH)):
        await users.update("acme", user.id, changes, an_entry(), end_logins=True)
        with pytest.raises(NotFound):
            await logins.add(a_login(user), refused)
    with pytest.raises(NotFound):
        await logins.add(a_login(nobody), HASH)
    await logins.add(a_login(user), "$y")


async def test_of_logins_and_a_change_that_come_together_no_login_is_left(acme: Store) -> None:
    logins, users, user = acme.identity.logins, acme.identity.users, a_user("a@acme.test")
    await users.add(user, an_entry())
    made = [a_login(user) for _ in range(12)]
    change = users.update("acme", user.id, {"password_hash": "$y"}, an_entry(), end_logins=True)
    attempts = [logins.add(login, HASH) for login in made]
    results = await asyncio.gather(*attempts[:6], change, *attempts[6:], return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), NotFound, UserRecord}
    assert [await logins.get(login.id) for login in made] == [None] * 12


async def test_logins_whose_time_is_over_go_and_a_change_may_end_them(acme: Store) -> None:
    logins, user = acme.identity.logins, a_user("a@acme.test")
    await acme.identity.users.add(user, an_entry())
    old, new = a_login(user, NOW), a_login(user)
    await logins.add(old, HASH)
    await logins.add(new, HASH)
    assert await logins.get(old.id) is None
    await acme.identity.users.update("acme", user.id, {"name": "x"}, an_entry())
    assert await logins.get(new.id) == new
    await acme.identity.users.update("acme", user.id, {"password_hash": "$y"}, an_entry(), end_logins=True)
    assert await logins.get(new.id) is None


async def test_keys_carry_grants_and_users(acme: Store) -> None:
    keys, user = acme.identity.keys, a_user("a@acme.test")
    await acme.identity.users.add(user, an_entry())
    key = a_key(user_id=user.id)
    entry = an_entry(action="key.create")
    assert await keys.add(key, entry)
    assert await keys.get("acme", key.id) == key == await keys.find(key.secret_hash)
    assert not await keys.add(key, an_entry())
    assert (await acme.identity.audit.page("acme", limit=1)) == [entry]
    for wrong in (a_key(user_id="user_0"), a_key("default", user.id)):
        with pytest.raises(NotFound):
            await keys.add(wrong)
    assert await keys.update("default", key.id, {"name": "x"}, an_entry("default")) is None
    changed = await keys.update("acme", key.id, {"grants": KeyGrants(), "disabled": True}, an_entry())
    assert changed == replace(key, grants=KeyGrants(), disabled=True) == await keys.find(key.secret_hash)


async def test_the_audit_log_is_paged_newest_first_by_account(acme: Store) -> None:
    entries = [an_entry() for _ in range(5)]
    for entry in entries:
        await acme.identity.audit.add(entry)
    await acme.identity.audit.add(an_entry("default"))
    page = await acme.identity.audit.page("acme", limit=3)
    assert page == entries[::-1][:3]
    rest = await acme.identity.audit.page("acme", limit=9, before=page[-1].id)
    assert rest[:2] == entries[:2][::-1]
    assert len(rest) == 3  # with that of the account


async def test_the_first_secret_stands(store: Store) -> None:
    found = await asyncio.gather(*(store.identity.secrets.ensure("x", b"%d" % number) for number in range(8)))
    assert len(set(found)) == 1
    assert await store.identity.secrets.ensure("y", b"other") == b"other"


def a_record(user_id: str, run_id: str) -> UsageRecord:
    return UsageRecord(
        run_id, "acme", user_id, "key_1", NOW, "chat", "m", "p", 3, "", 10, 1, 5, 0, False, "credits", 7, 100, 10
    )


async def fill(store: Store) -> tuple[UserRecord, UserRecord]:
    """Gives two users of an account everything that a user can have."""
    users = a_user("a@acme.test"), a_user("b@acme.test")
    await store.identity.keys.add(a_key("default"))
    for user in users:
        await store.identity.users.add(user, an_entry())
        await store.identity.keys.add(a_key(user_id=user.id))
        await store.identity.logins.add(a_login(user), HASH)
        conversation_id = new_id("conv")
        conversation = ConversationRecord(
            id=conversation_id,
            account_id="acme",
            user_id=user.id,
            short_id=conversation_id[-24:],
            tree_id=conversation_id,
            title="title",
            create_time=NOW,
            update_time=NOW,
        )
        message = NewMessage(id=new_id("msg"), body=b"", words="words", state=1, create_time=NOW)
        await store.conversations.create(conversation, [message])
    await store.usage.add([a_record("", "run_0"), a_record(users[0].id, "run_1"), a_record(users[1].id, "run_2")])
    await store.personas.save("acme", Persona(name="bard", system_prompt="Sing."), NOW)
    return users


async def counted(store: Store, account_id: str) -> dict[str, int]:
    """Returns how many rows an account has in each table."""
    found: dict[str, int] = {}
    async for table, _ in store.rows(account_id):
        found[table] = found.get(table, 0) + 1
    return found


async def test_every_row_of_an_account_is_told(acme: Store) -> None:
    users = await fill(acme)
    found = await counted(acme, "acme")
    assert found["accounts"] == 1
    assert [found[table] for table in ("users", "api_keys", "logins", "conversations", "messages")] == [2] * 5
    assert (found["usage_records"], found["usage_hours"], found["personas"]) == (3, 3, 1)
    rows = [row async for table, row in acme.rows("acme") if table == "users"]
    assert {row["id"] for row in rows} == {user.id for user in users}
    assert (await counted(acme, "default"))["api_keys"] == 1
    assert await counted(acme, "nobody") == {}


async def test_an_erased_user_leaves_nothing_but_nameless_usage(acme: Store) -> None:
    gone, stays = await fill(acme)
    entry = an_entry(action="user.delete")
    assert await acme.identity.users.erase("acme", gone.id, entry)
    assert not await acme.identity.users.erase("acme", gone.id, an_entry())
    rows = [(table, row) async for table, row in acme.rows("acme")]
    assert [table for table, row in rows if gone.id in map(str, row.values())] == []
    found = await counted(acme, "acme")
    assert [found[table] for table in ("users", "api_keys", "logins", "conversations", "messages")] == [1] * 5
    assert [row["user_id"] for table, row in rows if table == "conversations"] == [stays.id]
    assert sorted(row["user_id"] for table, row in rows if table == "usage_records") == sorted(["", "", stays.id])
    hours = {row["user_id"]: (row["runs"], row["charged_micros"]) for table, row in rows if table == "usage_hours"}
    assert hours == {"": (2, 14), stays.id: (1, 7)}  # the books add up
    (total,) = await acme.usage.sums(UsageQuery("acme"), interval=None, dimensions=(), limit=9)
    assert (total.runs, total.charged_micros) == (3, 21)
    assert (await acme.identity.audit.page("acme", limit=1)) == [entry]


async def test_old_audit_entries_go_a_little_at_a_time_whatever_their_account(acme: Store) -> None:
    audit = acme.identity.audit
    entries = [replace(an_entry("acme" if i % 2 else "gone"), create_time=NOW + i) for i in range(5)]
    for entry in entries:
        await audit.add(entry)
    assert await audit.purge(NOW, limit=2) == 0
    assert await audit.purge(NOW + 3, limit=2) == 2
    assert await audit.purge(NOW + 3, limit=2) == 2  # one of them tells of the account itself
    assert await audit.purge(NOW + 3, limit=2) == 0
    assert await audit.page("acme", limit=9) == [entries[3]]
    assert await audit.page("gone", limit=9) == [entries[4]]
    assert await acme.identity.accounts.get("acme") == ACME


async def test_of_servers_that_purge_together_each_tells_what_it_deleted(acme: Store) -> None:
    for _ in range(20):
        await acme.identity.audit.add(an_entry())
    counts = await asyncio.gather(*(acme.identity.audit.purge(NOW + 1, limit=9) for _ in range(4)))
    assert sum(counts) + await acme.identity.audit.purge(NOW + 1, limit=99) == 21
    assert await acme.identity.audit.page("acme", limit=9) == []


async def test_what_has_something_against_a_change_of_a_key_sees_it_as_it_is(acme: Store) -> None:
    keys, key = acme.identity.keys, a_key("acme")
    await keys.add(key)
    seen: list[KeyRecord] = []

    def refuse(found: KeyRecord) -> None:
        seen.append(found)
        raise Conflict("no")

    with pytest.raises(Conflict):
        await keys.update("acme", key.id, {"name": "x"}, an_entry("acme", "never"), refuse)
    assert await keys.update("default", key.id, {"name": "x"}, an_entry("default"), refuse) is None
    assert seen == [key]
    assert await keys.get("acme", key.id) == key
    assert "never" not in [entry.action for entry in await acme.identity.audit.page("acme", limit=9)]


async def test_a_check_and_its_change_are_one(acme: Store) -> None:
    keys, key = acme.identity.keys, replace(a_key("acme"), name="0")
    await keys.add(key)

    async def count(number: int) -> None:
        def check(found: KeyRecord) -> None:
            if found.name != str(number):
                raise Conflict("not yet, or not any more")

        while True:
            try:
                await keys.update("acme", key.id, {"name": str(number + 1)}, an_entry(), check)
            except Conflict:
                await asyncio.sleep(0)
            else:
                return

    await asyncio.wait_for(asyncio.gather(*(count(number) for number in range(6))), 60)
    assert (found := await keys.get("acme", key.id)) is not None
    assert found.name == "6"


async def test_what_an_erased_user_leaves_late_is_erased_too(acme: Store) -> None:
    gone, stays = await fill(acme)
    users, entry = acme.identity.users, replace(an_entry(action=USER_DELETED), target=gone.id)
    assert await users.erase("acme", gone.id, entry)
    late = ConversationRecord(
        id="conv_late", account_id="acme", user_id=gone.id, short_id="late", tree_id="conv_late",
        create_time=NOW, update_time=NOW,
    )  # fmt: skip
    words = NewMessage(id="msg_late", body=b"late", words="late", state=1, create_time=NOW)
    await acme.conversations.create(late, [words])
    await acme.usage.add([a_record(gone.id, "run_3")])
    await users.erase_late(NOW + 1)
    assert await acme.conversations.owners("acme") == [Owner("acme", user.id) for user in (gone, stays)]
    await users.erase_late(NOW)
    rows = [(table, row) async for table, row in acme.rows("acme") if table != "audit_entries"]
    assert [table for table, row in rows if gone.id in map(str, row.values()) or b"late" in row.values()] == []
    assert await acme.conversations.owners("acme") == [Owner("acme", stays.id)]
    (total,) = await acme.usage.sums(UsageQuery("acme"), interval=None, dimensions=(), limit=9)
    assert (total.runs, total.charged_micros) == (4, 28)


async def test_an_account_is_due_a_welcome_until_it_had_it(acme: Store) -> None:
    accounts = acme.identity.accounts
    for account_id in ("default", "acme"):
        assert (found := await accounts.get(account_id)) is not None
        assert not found.welcome_due
    new = AccountRecord("new", NOW, "new", welcome_due=True)
    user = a_user(account_id="new", subject="x")
    standing = await accounts.ensure(new, user, make_account=True)
    assert standing is not None
    assert standing.account == new
    for _ in range(2):
        await accounts.welcomed("new")
        assert await accounts.standing("new") == Standing(replace(new, welcome_due=False))
    await accounts.welcomed("nobody")


async def test_an_erased_account_leaves_nothing_but_its_audit_log(acme: Store) -> None:
    await fill(acme)
    before = await counted(acme, "default")
    assert await acme.identity.accounts.erase("acme", an_entry(action="account.delete"))
    assert not await acme.identity.accounts.erase("acme", an_entry())
    assert set(await counted(acme, "acme")) == {"audit_entries"}
    assert await counted(acme, "default") == before
    assert await acme.identity.users.find("a@acme.test") is None


def test_every_table_with_a_user_in_it_is_dealt_with() -> None:
    named = {table.name for table in metadata.tables.values() if "user_id" in table.c}
    assert named == COVERED
    theirs = {table.name for table in metadata.tables.values() if owner_column(table) is None}
    assert theirs == {"secrets", "owners"}  # the server's own
