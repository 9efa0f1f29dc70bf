"""Which processes live, as their locks tell."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from dragoman_server.store.ledger.lifemarks import Lifemarks

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from dragoman_server.store.ledger.lifemarks import Lifemarks
marks = Lifemarks(Path(sys.argv[1]))
marks.hold("own_other")
print("held", flush=True)
sys.stdin.readline()
"""


def shown(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("own_*")]


async def test_an_owner_is_dead_when_its_process_is(tmp_path: Path) -> None:
    database = tmp_path / "dragoman.db"
    marks = Lifemarks(database)
    marks.hold("own_mine")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(database), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    assert marks.take_dead() == []
    assert sorted(shown(tmp_path)) == ["own_mine", "own_other"]
    process.kill()
    await process.wait()
    assert marks.take_dead() == ["own_other"]
    assert marks.take_dead() == []  # that was told, and nothing is left of it
    assert shown(tmp_path) == ["own_mine"]
    marks.drop("own_mine")


def test_an_owner_that_left_is_not_found_dead(tmp_path: Path) -> None:
    marks, other = Lifemarks(tmp_path / "dragoman.db"), Lifemarks(tmp_path / "dragoman.db")
    for _ in range(2):
        marks.hold("own_mine")
    assert (marks.take_dead(), other.take_dead()) == ([], [])
    for _ in range(2):
        marks.drop("own_mine")
    assert (marks.take_dead(), other.take_dead()) == ([], [])
    assert shown(tmp_path) == []


def test_without_a_folder_nothing_is_known(tmp_path: Path) -> None:
    marks = Lifemarks(tmp_path / "nowhere" / "dragoman.db")
    marks.hold("own_mine")
    marks.drop("own_mine")
    assert marks.take_dead() == []


def test_a_name_that_another_holds_costs_nothing(tmp_path: Path) -> None:
    marks, other = Lifemarks(tmp_path / "dragoman.db"), Lifemarks(tmp_path / "dragoman.db")
    marks.hold("own_mine")
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        other.hold("own_mine")
    assert len(os.listdir("/dev/fd")) == before
    other.drop("own_mine")
    assert shown(tmp_path) == ["own_mine"]
    marks.drop("own_mine")
