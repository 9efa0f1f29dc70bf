from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman_server import tasks
from dragoman_server.tasks import end_tasks

if TYPE_CHECKING:
    import pytest


async def test_a_task_that_takes_its_cancellation_for_a_failure_ends_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = 0

    async def sweep_forever() -> None:
        nonlocal failures
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                failures += 1
                if failures == 3:
                    raise

    monkeypatch.setattr(tasks, "AGAIN_AFTER", 0.01)
    task = asyncio.create_task(sweep_forever())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_tasks([task])
    assert task.cancelled()
    assert failures == 3


async def test_tasks_end_however_they_do() -> None:
    async def fails() -> None:
        raise ValueError

    async def waits() -> None:
        await asyncio.sleep(60)

    started = [asyncio.create_task(fails()), asyncio.create_task(waits())]
    await asyncio.sleep(0)
    await end_tasks(started)
    await end_tasks(started)
    assert isinstance(started[0].exception(), ValueError)
    assert started[1].cancelled()
    await end_tasks([])
