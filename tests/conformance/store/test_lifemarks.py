"""Which processes live, as their locks tell."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from dragoman_server.store.ledger.lifemarks import Lifemarks

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
import pytest

from dragoman_server.store.ledger.lifemarks import Lifemarks
marks = Lifemarks(Path(sys.argv[1]))
marks.hold("own_other")
print("held", flush=True)
sys.stdin.readline()
"""


def take_dead(marks: Lifemarks) -> list[str]:
    """Returns who is dead, of whom nothing is left then."""
    with marks.dead() as (dead, _):
        return list(dead)


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
    assert take_dead(marks) == []
    assert sorted(shown(tmp_path)) == ["own_mine", "own_other"]
    process.kill()
    await process.wait()
    assert take_dead(marks) == ["own_other"]
    assert take_dead(marks) == []  # that was told, and nothing is left of it
    assert shown(tmp_path) == ["own_mine"]
    marks.drop("own_mine")


def test_an_owner_that_left_is_not_found_dead(tmp_path: Path) -> None:
    marks, other = Lifemarks(tmp_path / "dragoman.db"), Lifemarks(tmp_path / "dragoman.db")
    for _ in range(2):
        marks.hold("own_mine")
    assert (take_dead(marks), take_dead(other)) == ([], [])
    for _ in range(2):
        marks.drop("own_mine")
    assert (take_dead(marks), take_dead(other)) == ([], [])
    assert shown(tmp_path) == []


def test_without_a_folder_nothing_is_known(tmp_path: Path) -> None:
    marks = Lifemarks(tmp_path / "nowhere" / "dragoman.db")
    marks.hold("own_mine")
    marks.drop("own_mine")
    assert take_dead(marks) == []


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


def die(database: Path, owner_id: str, text: bytes = b"") -> None:
    """Leaves what a dead process leaves."""
    marks = Lifemarks(database)
    descriptor = marks.hold(owner_id)
    assert descriptor is not None
    assert marks.hold(owner_id) == descriptor
    os.write(descriptor, text)
    marks.drop(owner_id, keep_file=True)


def test_what_the_dead_wrote_can_be_read_by_one_at_a_time(tmp_path: Path) -> None:
    database = tmp_path / "dragoman.db"
    die(database, "own_a", b"some")
    die(database, "own_b")
    marks, other = Lifemarks(database), Lifemarks(database)
    before = len(os.listdir("/dev/fd"))
    marks.hold("own_c")
    with marks.dead() as (dead, alive):
        assert alive == ["own_c"]
        with other.dead() as (none, others):
            assert (none, sorted(others)) == ({}, ["own_a", "own_b", "own_c"])
        assert {name: os.pread(descriptor, 10, 0) for name, descriptor in dead.items()} == {
            "own_a": b"some",
            "own_b": b"",
        }
        assert sorted(shown(tmp_path)) == ["own_a", "own_b", "own_c"]
    marks.drop("own_c")
    assert len(os.listdir("/dev/fd")) == before
    assert shown(tmp_path) == take_dead(marks) == take_dead(other) == []


def test_the_dead_are_given_again_if_it_went_wrong(tmp_path: Path) -> None:
    database = tmp_path / "dragoman.db"
    die(database, "own_a", b"some")
    marks, other = Lifemarks(database), Lifemarks(database)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(KeyError), marks.dead() as (dead, _):
        raise KeyError(*dead)
    assert len(os.listdir("/dev/fd")) == before
    assert shown(tmp_path) == ["own_a"]
    assert take_dead(other) == ["own_a"]
    assert shown(tmp_path) == []
