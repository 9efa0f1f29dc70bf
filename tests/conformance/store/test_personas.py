from __future__ import annotations

import asyncio

import pytest

from dragoman.v1.persona_service_pb2 import Persona
from dragoman_server.errors import NotFound
from dragoman_server.ids import new_id
from dragoman_server.store.base import Store
from dragoman_server.store.identity.records import AuditRecord

NOW = 1_790_000_000_000_000


async def test_a_persona_comes_back_as_it_was_saved(store: Store) -> None:
    body = Persona(name="zoe", system_prompt="Ünï 🔑", model="m")
    saved = await store.personas.save("default", body, NOW)
    assert saved is not None
    assert (saved.name, saved.body, saved.version, saved.update_time) == ("zoe", body, 1, NOW)
    assert await store.personas.get("default", "zoe") == saved


async def test_saving_again_replaces(store: Store) -> None:
    await store.personas.save("default", Persona(name="zoe", model="a"), NOW)
    saved = await store.personas.save("default", Persona(name="zoe", model="b"), NOW + 1)
    assert saved is not None
    assert (saved.version, saved.update_time) == (2, NOW + 1)
    assert await store.personas.page("default", limit=10) == [saved]


async def test_saving_may_depend_on_the_version(store: Store) -> None:
    body = Persona(name="zoe")
    assert await store.personas.save("default", body, NOW, version=1) is None
    await store.personas.save("default", body, NOW)
    results = await asyncio.gather(*(store.personas.save("default", body, NOW, version=1) for _ in range(6)))
    assert sum(result is not None for result in results) == 1
    found = await store.personas.get("default", "zoe")
    assert found is not None
    assert found.version == 2


async def test_another_account_sees_nothing(store: Store) -> None:
    await store.personas.save("default", Persona(name="zoe"), NOW)
    assert await store.personas.get("other", "zoe") is None
    assert await store.personas.page("other", limit=10) == []
    assert not await store.personas.delete("other", "zoe")
    with pytest.raises(NotFound, match="'other' does not exist"):
        await store.personas.save("other", Persona(name="zoe"), NOW)
    assert await store.personas.get("default", "zoe") is not None


async def test_pages_run_by_name(store: Store) -> None:
    names = ["a", "a-b", "a0", "a_b", "ab", "b"]
    for name in reversed(names):
        await store.personas.save("default", Persona(name=name), NOW)
    for limit in (1, 2, 6, 7):
        seen: list[str] = []
        while page := await store.personas.page("default", limit=limit, after=seen[-1] if seen else ""):
            seen += [one.name for one in page]
        assert seen == names


async def test_a_deleted_one_is_gone(store: Store) -> None:
    await store.personas.save("default", Persona(name="zoe"), NOW)
    assert await store.personas.delete("default", "zoe")
    assert not await store.personas.delete("default", "zoe")
    assert await store.personas.get("default", "zoe") is None


async def test_what_was_done_is_told_and_what_failed_is_not(store: Store) -> None:
    def audit(action: str) -> AuditRecord:
        return AuditRecord(new_id("aud"), "default", NOW, "key_1", action, "zoe", "{}")

    assert await store.personas.save("default", Persona(name="zoe"), NOW, 1, audit("too.soon")) is None
    assert not await store.personas.delete("default", "zoe", audit("too.soon"))
    made, changed, deleted = audit("made"), audit("changed"), audit("deleted")
    await store.personas.save("default", Persona(name="zoe"), NOW, audit=made)
    await store.personas.save("default", Persona(name="zoe"), NOW, 1, changed)
    await store.personas.delete("default", "zoe", deleted)
    assert await store.identity.audit.page("default", limit=9) == [deleted, changed, made]
