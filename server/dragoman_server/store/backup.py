"""Backups of a SQLite file while it is in use."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from typing import TYPE_CHECKING

from dragoman_server.store.base import StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path


def back_up(source: Path, target: Path, *, replace: bool = False) -> int:
    """Copies a database as it is at one moment, whoever writes to it meanwhile; returns the bytes of the copy.

    The copy is checked, readable by its owner only, and takes its name when it is whole and on disk.

    Args:
        source: The database.
        target: The copy.
        replace: Whether another file of that name is replaced.

    Raises:
        StoreUnusable: If there is no such database, it is damaged, the name is taken, or the copy cannot be written.
    """
    if not source.is_file():
        raise StoreUnusable(f"there is no database {source}")
    if target.exists():
        if target.samefile(source):
            raise StoreUnusable(f"{target} is the database itself")
        if not replace:
            raise StoreUnusable(f"{target} exists already")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # for the owner only
    except OSError as error:
        raise StoreUnusable(f"cannot write into {target.parent}: {error.strerror}") from error
    try:
        _copy(source, name)
        os.fsync(handle)
        os.replace(name, target)
        return target.stat().st_size
    except (sqlite3.Error, OSError) as error:
        raise StoreUnusable(f"cannot back up {source} to {target}: {error}") from error
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _copy(source: Path, target: str) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as origin,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        origin.backup(copy)  # in one step: beside a write-ahead log, a reader keeps nobody from writing
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreUnusable(f"the database {source} is damaged: {verdict}")
