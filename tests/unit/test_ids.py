from __future__ import annotations

import subprocess
import sys
import time
import uuid

import pytest

from dragoman_server import ids


def test_ids_are_version_7_and_tell_their_time() -> None:
    before = time.time_ns() // 1_000_000
    value = uuid.UUID(ids.uuid7())
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before <= value.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_process_are_strictly_increasing() -> None:
    made = [ids.new_id("run") for _ in range(5000)]
    assert made == sorted(set(made))


def test_a_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert ids.uuid7() > first


def test_ids_differ_by_more_than_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(2_000_000_000_000_000_000, 3_000_000_000_000_000_000, 1_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(ticks))
    monkeypatch.setattr(ids, "_high", 0)  # what it was comes back in the end
    random_bits = {ids.uuid7()[12:] for _ in range(1000)}  # more than are fetched at once
    assert len(random_bits) == 1000
    assert len({bits[1:4] for bits in random_bits}) > 500
    assert {bits[4] for bits in random_bits} == set("89ab")


FORKING = """
import os, time
from dragoman_server import ids

time.time_ns = lambda: 10**18
ids.uuid7()  # there is randomness left over
time.time_ns = lambda: 10**18 + 10**9
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    os.write(write_end, ids.uuid7().encode())
    os._exit(0)
os.close(write_end)
os.waitpid(child, 0)
print(os.read(read_end, 64).decode(), ids.uuid7())
"""


def test_a_forked_process_makes_ids_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=True)
    made, own = done.stdout.split()
    assert made[:12] == own[:12]
    assert made[12:] != own[12:]
