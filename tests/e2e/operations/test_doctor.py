"""What the doctor says of a database."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from tests.support.command import dragoman
from tests.support.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

BEFORE = Path(__file__).with_name("schema_0001.sql")


def finding(**variables: str) -> tuple[str, str]:
    """Returns the state of the database and what is said of it."""
    said = dragoman("doctor", "--no-network", **variables).stdout
    found = re.search(r"^(\S+) +database +(.*)$", said, re.MULTILINE)
    assert found, said
    return found[1], found[2]


def test_a_file_by_its_age(tmp_path: Path) -> None:
    data, file = {"DRAGOMAN_DATA_DIR": str(tmp_path)}, tmp_path / "dragoman.db"
    assert finding(**data) == ("ok", f"{file} is made at the first start")
    assert list(tmp_path.iterdir()) == []
    with contextlib.closing(sqlite3.connect(file)) as old:
        old.executescript(BEFORE.read_text())
    state, said = finding(**data)
    assert (state, "the next start brings its schema to" in said) == ("ok", True)
    assert dragoman("migrate", **data).returncode == 0
    assert finding(**data) == ("ok", f"{file} is there")
    with contextlib.closing(sqlite3.connect(file)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    state, said = finding(**data)
    assert (state.lower(), "its schema is 9999" in said) == ("broken", True)


@pytest.mark.usefixtures("postgres_server")
def test_postgres_without_a_schema(postgres_url: str) -> None:
    state, said = finding(DRAGOMAN_STORE__URL=postgres_url)
    assert (state, said.startswith("reachable; the next start")) == ("ok", True)
