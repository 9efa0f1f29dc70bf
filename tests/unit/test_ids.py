from __future__ import annotations

import os
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


def test_a_forked_process_makes_ids_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns() + 10**15
    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setattr(ids, "_high", 0)
    ids.uuid7()  # there is randomness left over
    now += 10**9
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, ids.uuid7().encode())
        os._exit(0)
    os.waitpid(child, 0)
    made, own = os.read(read_end, 64).decode(), ids.uuid7()
    os.close(read_end)
    os.close(write_end)
    assert made[:12] == own[:12]
    assert made[12:] != own[12:]
