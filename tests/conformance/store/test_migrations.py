from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from dragoman_server.store import migrations
from dragoman_server.store.base import StoreUnusable
from dragoman_server.store.conversations.records import Owner
from dragoman_server.store.database import Database, open_store, parse_url, sqlite_url
from dragoman_server.store.tables import metadata

FOLDER = Path(migrations.__file__).parent
ROOT = Path(__file__).resolve().parents[3]


async def migrate(url: str) -> None:
    store = open_store(url)
    try:
        await store.migrate()
    finally:
        await store.close()


async def test_the_migrations_make_exactly_the_tables_of_the_code(database_url: str) -> None:
    await migrate(database_url)
    database = Database(parse_url(database_url))

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    def names(connection: Connection) -> dict[str, set[str | None]]:
        inspector = inspect(connection)
        return {
            table: {
                inspector.get_pk_constraint(table)["name"],
                *(key["name"] for key in inspector.get_foreign_keys(table)),
                *(key["name"] for key in inspector.get_unique_constraints(table)),
                *(index["name"] for index in inspector.get_indexes(table) if not index["unique"]),
            }
            for table in inspector.get_table_names()
            if table in metadata.tables
        }

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(names) == {
            table.name: {item.name for item in table.constraints | table.indexes if item.name}
            for table in metadata.tables.values()
        }
        assert (await connection.execute(text("SELECT id FROM accounts"))).scalars().all() == ["default"]
    await database.close()


def test_a_second_start_changes_nothing_and_does_not_load_alembic(database_url: str) -> None:
    asyncio.run(migrate(database_url))
    program = """
import asyncio, sys
from dragoman_server.store.database import open_store

async def main():
    store = open_store(sys.argv[1])
    await store.migrate()
    await store.close()

asyncio.run(main())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"alembic", "mako"}))
"""
    command = [sys.executable, "-c", program, database_url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "[]\n"


def test_processes_that_start_together_agree(database_url: str) -> None:
    program = """
import asyncio, sys
from dragoman_server.store.database import open_store

async def main():
    sys.stdin.read()  # until all are there
    store = open_store(sys.argv[1])
    await store.migrate()
    print(await store.identity.keys.page("default", limit=1))
    await store.close()

import alembic.command
asyncio.run(main())
"""
    command = [sys.executable, "-c", program, database_url]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        for process in processes:
            output, errors = process.communicate(timeout=60)
            assert (output, errors, process.returncode) == ("[]\n", "", 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def test_stores_of_one_process_that_start_together_agree(database_url: str) -> None:
    await asyncio.gather(*(migrate(database_url) for _ in range(6)))
    store = open_store(database_url)
    assert await store.identity.keys.page("default", limit=1) == []
    await store.close()


async def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    await migrate(database_url)
    database = Database(parse_url(database_url))
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnusable, match=r"has schema 9999.* install the newer version"):
        await migrate(database_url)
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar() == "9999"
    await database.close()


async def test_a_failed_migration_leaves_nothing_behind(database_url: str) -> None:
    database = Database(parse_url(database_url))
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE api_keys (n INTEGER)"))  # in the way of the second table
    with pytest.raises(StoreUnusable, match="already exists"):
        await migrate(database_url)
    async with database.read() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["api_keys"]
    async with database.write() as connection:
        await connection.execute(text("DROP TABLE api_keys"))
    await migrate(database_url)
    await database.close()


async def test_conversations_of_before_get_their_sizes(database_url: str) -> None:
    database = Database(parse_url(database_url))

    def begin(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        upgrade(config, "0005")

    messages = [("m1", None, 0, b"12345", ""), ("m2", "m1", 1, b"\x00\xff", '"é"'), ("m3", "m1", 1, b"xyz", "")]
    async with database.write() as connection:
        await connection.run_sync(begin)
        for name, head, count in (("a", "m2", 2), ("b", "m3", 2), ("c", None, 0)):
            values = (
                f"'{name}', 'default', '', 'short_{name}', 'a', :head, {count}, '', '', :no, '', '', '', '', 1, 1, 1"
            )
            columns = (
                "id, account_id, user_id, short_id, tree_id, head_message_id, message_count, title, words, pinned, "
                "source, persona, forked_from_id, forked_at_message_id, version, create_time, update_time"
            )
            statement = text(f"INSERT INTO conversations ({columns}) VALUES ({values})")
            await connection.execute(statement, {"head": head, "no": False})
        for name, parent, depth, body, details in messages:
            columns = (
                "id, account_id, tree_id, parent_id, depth, body, words, state, run_id, model, details, create_time"
            )
            values = f"'{name}', 'default', 'a', :parent, {depth}, :body, '', 1, '', '', :details, 1"
            statement = text(f"INSERT INTO messages ({columns}) VALUES ({values})")
            await connection.execute(statement, {"parent": parent, "body": body, "details": details})
    await database.close()
    store = open_store(database_url)
    await store.migrate()
    found = [await store.conversations.get(Owner("default", ""), f"short_{name}") for name in "abc"]
    assert [one.byte_count for one in found if one is not None] == [5 + 2 + 3, 5 + 3, 0]
    for one in found:
        assert one is not None
        chain = await store.conversations.chain("default", one.head_message_id)
        assert sum(message.size for message in chain) == one.byte_count
    await store.close()


def test_the_code_knows_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


async def test_a_folder_with_a_percent_sign_is_no_obstacle(tmp_path: Path) -> None:
    await migrate(sqlite_url(tmp_path / "100%" / "x.db"))


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling to build a wheel")
def test_a_wheel_brings_the_migrations(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (FOLDER / "env.py", *(FOLDER / "versions").glob("*.py")):
        assert f"dragoman_server/store/migrations/{path.relative_to(FOLDER)}" in names
