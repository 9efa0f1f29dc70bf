from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.errors import NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.base import Store
from dragoman_server.store.identity.records import KeyRecord

NOW = 1_790_000_000_000_000


def a_key(name: str = "a key", secret: str | None = None, create_time: int = NOW) -> KeyRecord:
    key_id = new_id("key")
    return KeyRecord(
        id=key_id,
        account_id="default",
        name=name,
        prefix="dgm_abcdef",
        secret_hash=hashlib.sha256((secret or key_id).encode()).digest(),
        role=KeyRole.KEY_ROLE_MEMBER,
        create_time=create_time,
    )


async def test_a_key_comes_back_as_it_was_kept(store: Store) -> None:
    key = replace(a_key("Ünï 🔑 'quoted' \"%s\" -- ;"), expire_time=NOW + 1, role=KeyRole.KEY_ROLE_ADMIN)
    assert await store.identity.keys.add(key)
    assert await store.identity.keys.get("default", key.id) == key
    assert await store.identity.keys.find(key.secret_hash) == key


async def test_times_keep_their_microseconds_up_to_the_year_9999(store: Store) -> None:
    key = replace(a_key(), create_time=NOW + 1, expire_time=253_402_300_799_999_999)
    await store.identity.keys.add(key)
    assert await store.identity.keys.get("default", key.id) == key


async def test_what_is_unknown_is_none(store: Store) -> None:
    assert await store.identity.keys.get("default", "key_0") is None
    assert await store.identity.keys.find(b"\x00" * 32) is None
    assert await store.identity.keys.revoke("default", "key_0", NOW) is None
    assert await store.identity.keys.page("default", limit=10) == []
    assert await store.identity.keys.page("nobody", limit=10) == []


async def test_another_account_sees_and_changes_nothing(store: Store) -> None:
    key = a_key()
    await store.identity.keys.add(key)
    assert await store.identity.keys.get("other", key.id) is None
    assert await store.identity.keys.page("other", limit=10) == []
    assert await store.identity.keys.revoke("other", key.id, NOW) is None
    assert await store.identity.keys.get("default", key.id) == key


async def test_a_key_needs_its_account(store: Store) -> None:
    key = replace(a_key(), account_id="nobody")
    with pytest.raises(NotFound, match="'nobody' does not exist"):
        await store.identity.keys.add(key)
    assert await store.identity.keys.find(key.secret_hash) is None


async def test_a_secret_is_kept_once(store: Store) -> None:
    first, second = a_key("first", secret="same"), a_key("second", secret="same")
    assert await store.identity.keys.add(first)
    assert not await store.identity.keys.add(second)
    assert await store.identity.keys.page("default", limit=10) == [first]


async def test_only_the_first_key_of_an_account_is_first(store: Store) -> None:
    assert await store.identity.keys.add(a_key(), only_first=True)
    assert not await store.identity.keys.add(a_key(), only_first=True)
    assert await store.identity.keys.add(a_key())
    assert len(await store.identity.keys.page("default", limit=10)) == 2


async def test_of_many_that_want_to_be_first_one_is(store: Store) -> None:
    added = await asyncio.gather(*(store.identity.keys.add(a_key(), only_first=True) for _ in range(12)))
    assert added.count(True) == 1
    assert len(await store.identity.keys.page("default", limit=100)) == 1


async def test_of_many_with_one_secret_one_is_kept(store: Store) -> None:
    added = await asyncio.gather(*(store.identity.keys.add(a_key(secret="same")) for _ in range(12)))
    assert added.count(True) == 1


async def test_many_writers_and_readers_at_once(store: Store) -> None:
    keys = [a_key(create_time=NOW + index) for index in range(40)]

    async def add_and_read(key: KeyRecord) -> None:
        assert await store.identity.keys.add(key)
        assert await store.identity.keys.find(key.secret_hash) == key

    await asyncio.gather(*map(add_and_read, keys))
    assert await store.identity.keys.page("default", limit=100) == keys


async def test_pages_run_by_time_then_id_and_miss_nothing(store: Store) -> None:
    keys = [a_key(create_time=NOW + index // 3) for index in range(10)]  # three share each moment
    for key in reversed(keys):
        await store.identity.keys.add(key)
    expected = sorted(keys, key=lambda key: (key.create_time, key.id))
    for limit in (1, 2, 3, 9, 10, 11):
        seen: list[KeyRecord] = []
        while page := await store.identity.keys.page(
            "default", limit=limit, after=(seen[-1].create_time, seen[-1].id) if seen else None
        ):
            assert len(page) <= limit
            seen += page
        assert seen == expected


async def test_the_first_revocation_stands(store: Store) -> None:
    key = a_key()
    await store.identity.keys.add(key)
    revoked = replace(key, revoke_time=NOW + 5)
    assert await store.identity.keys.revoke("default", key.id, NOW + 5) == revoked
    assert await store.identity.keys.revoke("default", key.id, NOW + 9) == revoked
    assert await store.identity.keys.find(key.secret_hash) == revoked
    assert await store.identity.keys.get("default", key.id) == revoked
    assert await store.identity.keys.page("default", limit=10) == [revoked]


def test_a_record_in_a_log_shows_no_hash() -> None:
    key = a_key(secret="sesame")
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert "secret_hash" not in text
        assert repr(key.secret_hash) not in text
        assert key.secret_hash.hex() not in text
