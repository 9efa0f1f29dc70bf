"""Runs the cells on the targets: all targets stand from the start, and every round puts each cell on each of them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from benchmarks import load
from benchmarks.cells import CELLS, IDLE_ORDERS, IDLE_STREAMS
from benchmarks.processes import Process, free_port, on_cores
from benchmarks.results import Footprint, Reading, Results
from benchmarks.targets import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.cells import Cell
    from benchmarks.targets import Target

_SETTLE = 0.5
"""Seconds that a target gets to come to rest."""
_WARM_UP = 0.5
_WARM_UP_CELLS = ("plain16", "burst16")
_UPSTREAM_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes.

    Attributes:
        targets: What is measured.
        cells: With what.
        rounds: How often.
        seconds: How long new requests are sent in one reading.
        starts: How often each target is started, to time that.
    """

    targets: Sequence[Target]
    cells: Sequence[Cell]
    rounds: int
    seconds: float
    starts: int


def run(options: Options, folder: Path) -> Results:
    """Runs the benchmark in an empty folder.

    Raises:
        TargetFailedError: If a target does not become ready.
        TimeoutError: If the mock upstream does not.
    """
    _allow_many_connections()
    load_cores, target_cores = _split_cores()
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_cores(load_cores))
        port = stack.enter_context(_upstream(folder))
        results = Results()
        servers: list[Server] = []
        for target in options.targets:
            footprint = results.footprints[target.name] = Footprint()
            for start in range(options.starts if target.commands else 1):
                if start:
                    servers.pop().end()
                servers.append(Server(target, folder / f"{target.name}-{start}", port, cores=target_cores))
                stack.callback(servers[-1].end)
                footprint.start_up.append(servers[-1].start_up)
            if target.commands:
                _say(f"{target.name}: ready in {footprint.start_up[-1]:.2f} s")
                _measure_memory(servers[-1], footprint)
        _warm_up(servers)
        for number in range(options.rounds):
            for cell in options.cells:
                # Back and forth, so that none always comes first.
                for server in servers if number % 2 == 0 else reversed(servers):
                    results.readings.append(_read(server, cell, options.seconds, number))
            _say(f"round {number + 1} of {options.rounds} done")
        return results


def _read(server: Server, cell: Cell, seconds: float, number: int) -> Reading:
    request = server.endpoint.request(cell.orders, stream=cell.chunks > 0)
    plan = load.Plan(request, cell.connections, cell.events, seconds, cell.spread)
    before = server.cpu_seconds()
    try:
        tally = uvloop.run(load.run(server.endpoint.port, plan))
    except (OSError, TimeoutError) as error:
        tally = load.Tally(errors=1, first_error=f"cannot connect: {error!r}")
    cpu_seconds = server.cpu_seconds() - before
    if tally.errors:
        _say(f"{server.target.name}, {cell.name}: {tally.errors} errors, the first: {tally.first_error}")
    return Reading(
        target=server.target.name,
        cell=cell.name,
        round=number,
        requests=tally.requests,
        events=tally.events,
        errors=tally.errors,
        first_error=tally.first_error,
        seconds=tally.seconds,
        cpu_seconds=cpu_seconds,
        latency=load.Percentiles.of(tally.latencies),
        first_event=load.Percentiles.of(tally.first_events),
        gap=load.Percentiles.of(tally.gaps),
        events_per_read=tally.events / tally.reads if tally.reads else 0.0,
    )


def _warm_up(servers: Sequence[Server]) -> None:
    for server in servers:
        for name in _WARM_UP_CELLS:
            _read(server, CELLS[name], _WARM_UP, -1)


def _measure_memory(server: Server, footprint: Footprint) -> None:
    """Reads the resident memory at rest, and what open idle streams add."""
    time.sleep(_SETTLE)
    footprint.idle_mib = server.resident_mib()
    plan = load.Plan(server.endpoint.request(IDLE_ORDERS, stream=True), IDLE_STREAMS, (1, 3), 0.0)

    async def hold() -> None:
        async with load.held_open(server.endpoint.port, plan) as tally:
            if tally.errors:
                footprint.problem = tally.first_error
            else:
                footprint.streams_mib = (server.resident_mib() - footprint.idle_mib) * 1000 / IDLE_STREAMS

    try:
        uvloop.run(hold())
    except (OSError, TimeoutError) as error:
        footprint.problem = repr(error)
    if footprint.problem:
        _say(f"{server.target.name}: {IDLE_STREAMS} idle streams did not open: {footprint.problem}")
    time.sleep(_SETTLE)


@contextlib.contextmanager
def _upstream(folder: Path) -> Iterator[int]:
    """Starts the mock upstream on the cores of this process; gives its port."""
    port = free_port()
    process = Process([sys.executable, "-m", "benchmarks.upstream", "--port", str(port)], folder / "upstream.log")
    try:
        deadline = time.monotonic() + _UPSTREAM_TIMEOUT
        while not _listens(port):
            if time.monotonic() > deadline or not process.running:
                raise TimeoutError(f"the mock upstream does not listen: {process.log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield port
    finally:
        process.end()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _split_cores() -> tuple[set[int], set[int]]:
    """Returns the core of the load and the mock upstream, and that of the targets; none if there is but one core."""
    cores = sorted(os.sched_getaffinity(0))
    return (set(cores[:1]), set(cores[1:2])) if len(cores) > 1 else (set(), set())


def _allow_many_connections() -> None:
    """Lifts the limit of open files as far as it goes: idle streams take two each in a target."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(message: str) -> None:
    print(f".. {message}", file=sys.stderr, flush=True)
