from __future__ import annotations

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
