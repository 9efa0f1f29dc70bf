from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from dragoman_server.store.backup import back_up
from dragoman_server.store.base import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A database that is open, with rows that stand in its log only."""
    path = tmp_path / "a #1%20?.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as open_one:
        open_one.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER, m INTEGER)")
        open_one.execute("INSERT INTO t VALUES (1, 1)")
        yield path


def rows(path: Path) -> list[tuple[int, int]]:
    with contextlib.closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT n, m FROM t ORDER BY n").fetchall()


def test_the_copy_is_one_file_for_its_owner_with_all_there_is(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    target = folder / "copy.db"
    assert back_up(source, target) == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert rows(target) == [(1, 1)]
    assert list(folder.iterdir()) == [target]


def test_a_name_that_is_taken_is_refused_unless_it_may_be_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(StoreUnusable, match="exists already"):
        back_up(source, target)
    assert target.read_text() == "precious"
    back_up(source, target, replace=True)
    assert rows(target) == [(1, 1)]


def test_the_database_itself_is_never_replaced(source: Path, tmp_path: Path) -> None:
    other_name = tmp_path / "link.db"
    other_name.hardlink_to(source)
    for target in (source, other_name):
        with pytest.raises(StoreUnusable, match="is the database itself"):
            back_up(source, target, replace=True)
    assert rows(source) == [(1, 1)]


@pytest.mark.parametrize("damage", ["missing", "no folder", "no database", "torn"])
def test_what_fails_leaves_nothing_behind(source: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "backups"
    if damage != "no folder":
        folder.mkdir()
    if damage == "missing":
        source = tmp_path / "other.db"
    elif damage == "no database":
        source = tmp_path / "text.db"
        source.write_text("this is a text file\n" * 1000)
    elif damage == "torn":
        source = torn(tmp_path / "torn.db")
    with pytest.raises(StoreUnusable):
        back_up(source, folder / "copy.db")
    assert not folder.exists() or list(folder.iterdir()) == []
    assert damage != "missing" or not source.exists()


def torn(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE t (n INTEGER)")
        file.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(10_000)])
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + bytes(8192) + whole[16384:])
    return path


def test_a_copy_is_of_one_moment_however_much_is_written(source: Path, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(source, timeout=30)) as file:
            number = 2
            while not done.is_set():
                with file:  # each transaction writes both, or neither
                    file.execute("INSERT INTO t VALUES (?, 0)", (number,))
                    file.execute("UPDATE t SET m = n WHERE n = ?", (number,))
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [tmp_path / f"{number}.db" for number in range(20)]
        for copy in copies:
            back_up(source, copy)
    finally:
        done.set()
        writer.join(30)
    found = [rows(copy) for copy in copies]
    assert all(n == m for copy in found for n, m in copy)
    assert all([n for n, _ in copy] == list(range(1, len(copy) + 1)) for copy in found)
    assert len(found[0]) <= len(found[-1]) <= len(rows(source))
    assert len(rows(source)) > 1
