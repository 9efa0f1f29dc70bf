"""Processes under measurement: started on given cores, read from /proc, ended with all their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_END_TIMEOUT = 8.0


class _Stat(NamedTuple):
    parent: int
    ticks: int


def _stat(pid: int) -> _Stat | None:
    """Reads the parent of a process and its CPU time, with that of children it has waited for; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(int(fields[1]), sum(map(int, fields[11:15])))


def _resident_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmRSS:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _tree(root: int) -> dict[int, _Stat]:
    """Returns a process and all that descend from it."""
    stats = {pid: stat for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (stat := _stat(pid))}
    tree: dict[int, _Stat] = {}
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            tree[pid] = stats[pid]
            todo += [child for child, stat in stats.items() if stat.parent == pid]
    return tree


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Moves this process to some cores; what is started meanwhile stays there. No cores means: stay as it is."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of ours, in a process group of its own.

    Attributes:
        log: The file that takes what it prints.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        cores: Collection[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it; without an environment of its own it gets ours."""
        self.log = log
        with on_cores(cores), log.open("wb") as output:
            self._popen = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        # Looked at, not waited for: as long as it is a zombie, nobody else can get the number of it or its group.
        return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def cpu_seconds(self) -> float:
        """Returns the CPU time, user and system, that it and its descendants have used."""
        return sum(stat.ticks for stat in _tree(self._popen.pid).values()) / _TICK

    def resident_mib(self) -> float:
        """Returns the resident memory of it and its descendants."""
        return sum(map(_resident_kib, _tree(self._popen.pid))) / 1024

    def end(self) -> None:
        """Asks it to end, then ends what is left of its group. May be called again."""
        if self._popen.returncode is not None:
            return
        os.kill(self._popen.pid, signal.SIGTERM)
        deadline = time.monotonic() + _END_TIMEOUT
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
