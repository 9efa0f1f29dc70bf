"""The tools of the benchmark, held against each other: what is not as it should be must not pass for a reading."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import budget, load, processes, report, upstream
from benchmarks.cells import CELLS
from benchmarks.results import Footprint, Reading, Results

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def mock_upstream() -> AsyncIterator[int]:
    port = processes.free_port()
    task = asyncio.create_task(upstream.serve(port))
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.01)
        yield port
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def plan(
    port: int, orders: str, *, events: tuple[int, int] | None = None, connections: int = 3, seconds: float = 0.1
) -> load.Plan:
    return load.Plan(load.Endpoint(port).request(orders, stream=events is not None), connections, events, seconds)


async def test_plain_answers_are_counted() -> None:
    async with mock_upstream() as port:
        tally = await load.run(port, plan(port, "MOCK chunks=4"))
    assert tally.errors == 0, tally.first_error
    assert tally.requests == len(tally.latencies) >= 3
    assert tally.events == 0


@pytest.mark.parametrize("delay_us", [0, 5000])
async def test_every_event_of_a_stream_is_counted(delay_us: int) -> None:
    async with mock_upstream() as port:
        orders = f"MOCK chunks=10 delay_us={delay_us} ttft_us={delay_us}"
        tally = await load.run(port, plan(port, orders, events=(12, 12)))
    assert tally.errors == 0, tally.first_error
    assert tally.events == 12 * tally.requests
    assert len(tally.first_events) == tally.requests >= 3


async def test_a_stream_of_another_length_is_an_error() -> None:
    async with mock_upstream() as port:
        tally = await load.run(port, plan(port, "MOCK chunks=9", events=(12, 12)))
    assert tally.requests == 0
    assert tally.errors >= 3
    assert tally.first_error == "11 events instead of 12 to 12"


async def test_orders_that_are_not_understood_are_an_error() -> None:
    async with mock_upstream() as port:
        tally = await load.run(port, plan(port, "MOCK nonsense=1"))
    assert (tally.requests, tally.errors) == (0, 3)
    assert tally.first_error.startswith("status 400")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\ndata: {}\n\n\n\n", "no [DONE]"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n",
            "connection lost after 1 events",
        ),
        (b"no HTTP\r\n\r\n", "not HTTP"),
    ],
)
async def test_a_broken_answer_is_an_error(answer: bytes, error: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tally = await load.run(port, plan(port, "MOCK", events=(1, 1), connections=1))
    assert tally.requests == 0
    assert tally.errors >= 1
    assert error in tally.first_error


@pytest.mark.parametrize("cut", range(1, 40))
async def test_events_are_counted_wherever_the_bytes_are_cut(cut: int) -> None:
    body = b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n'
    tally = load.Tally()
    connection = load.Connection(load.Plan(b"", 1, (2, 2), 0.0), tally, lambda: None)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    for part in (head, body[:cut], body[cut:]):
        connection.data_received(part)
    assert (tally.requests, tally.errors, tally.events) == (1, 0, 2), tally.first_error


async def test_open_idle_streams_have_their_first_event() -> None:
    async with mock_upstream() as port:
        orders = "MOCK chunks=2 delay_us=30000000"
        async with load.held_open(port, plan(port, orders, events=(1, 3), connections=20, seconds=0.0)) as tally:
            assert len(tally.first_events) == 20
        assert tally.errors == 0


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a zombie waits for its parent, which may be anybody


def test_the_whole_tree_of_a_process_is_measured_and_ended(tmp_path: Path) -> None:
    child = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    process = processes.Process([sys.executable, "-c", parent], tmp_path / "log")
    try:
        while b"done" not in process.log.read_bytes():
            assert process.running
            time.sleep(0.01)
        assert process.cpu_seconds() >= 0.2
        assert process.resident_mib() > 1
        pids = list(processes._tree(process._popen.pid))
        assert len(pids) == 2
    finally:
        process.end()
    process.end()  # again: it does nothing
    for _ in range(500):
        if not any(map(alive, pids)):
            break
        time.sleep(0.01)
    assert not any(map(alive, pids))


def reading(target: str, cell: str, cpu_seconds: float, *, number: int = 0, errors: int = 0) -> Reading:
    wait = load.Percentiles(0.001, 0.002, 0.0025)
    first_event = wait if CELLS[cell].chunks else None
    events = 1000 if CELLS[cell].chunks else 0
    return Reading(target, cell, number, 100, events, errors, "", 1.0, cpu_seconds, wait, first_event, None, 1.0)


def results(*, factor: float, errors: int = 0) -> Results:
    found = Results()
    for target in budget.TARGETS:
        found.footprints[target] = Footprint([1.0], 100.0, 50.0)
        for cell in budget.CELLS:
            for number, machine in enumerate((1.0, 3.0)):  # a machine that got slower between the rounds
                cpu = 0.1 * machine * (1.0 if target == "relay" else factor)
                found.readings.append(reading(target, cell, cpu, number=number, errors=errors))
    return found


def test_ratios_are_taken_round_by_round() -> None:
    assert results(factor=1.1).cpu_ratio("one", "plain16") == pytest.approx(1.1)


def test_budgets_that_are_kept_pass() -> None:
    assert [verdict for verdict in budget.check(results(factor=1.1)) if not verdict.kept] == []


def test_budgets_that_are_not_kept_fail() -> None:
    failed = {
        (verdict.budget.target, verdict.budget.cell)
        for verdict in budget.check(results(factor=2.0))
        if not verdict.kept
    }
    assert failed == {("one", "plain16"), ("one", "paced64"), ("one", "burst16")}


def test_a_reading_with_errors_keeps_no_budget_and_is_marked() -> None:
    found = results(factor=1.0, errors=1)
    assert not any(verdict.kept for verdict in budget.check(found) if verdict.budget.cell)
    assert "NOT A READING" in report.render(found)
