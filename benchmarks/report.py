"""Prints results as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cells import CELLS
from benchmarks.results import BASE, Reading, Results, median

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.load import Percentiles

_DIRECT = "direct"
_HEAD = (
    *("cell", "target", "/s", "CPU us", f"x {BASE}", "busy", "p50 ms", "p99 ms", "+p50", "+p99"),
    *("worst/med", "gap99 ms", "ev/read", "errors"),
)
_FOOTPRINT_HEAD = ("target", "start-up s", "RSS idle MiB", "+1,000 idle streams MiB")


def render(results: Results) -> str:
    """Renders the readings, a row for each cell and target, and the footprints below."""
    cells = list(dict.fromkeys(reading.cell for reading in results.readings))
    targets = list(results.footprints)
    rows = [_row(results, cell, target) for cell in cells for target in targets]
    footprints = [_footprint_row(results, target) for target in targets if target != _DIRECT]
    return f"{_table(_HEAD, rows, labels=2)}\n\n{_table(_FOOTPRINT_HEAD, footprints, labels=1)}"


def _row(results: Results, cell: str, target: str) -> list[str]:
    def figure(take: Callable[[Reading], float | None], scale: float = 1.0, digits: int = 1) -> str:
        return _number(_scaled(results.median(target, cell, take), scale), digits)

    def added(take: Callable[[Percentiles], float]) -> str:
        ours = results.median(target, cell, _waiting(take))
        direct = results.median(_DIRECT, cell, _waiting(take))
        return _number((ours - direct) * 1e3 if ours is not None and direct is not None else None, 2)

    bare = target == _DIRECT  # the CPU time of the mock upstream is the tool's own
    return [
        f"{cell}, us/{CELLS[cell].unit}",
        target,
        figure(lambda reading: reading.rate, digits=0),
        "-" if bare else figure(lambda reading: reading.cpu_us),
        "-" if bare else _number(results.cpu_ratio(target, cell), 2),
        "-" if bare else figure(lambda reading: reading.busy, digits=2),
        figure(_waiting(lambda wait: wait.p50), 1e3, 2),
        figure(_waiting(lambda wait: wait.p99), 1e3, 2),
        "-" if bare else added(lambda wait: wait.p50),
        "-" if bare else added(lambda wait: wait.p99),
        figure(lambda reading: reading.unfairness),
        figure(lambda reading: reading.gap.p99 if reading.gap else None, 1e3),
        figure(lambda reading: reading.events_per_read or None),
        f"{errors} NOT A READING" if (errors := results.errors(target, cell)) else "0",
    ]


def _waiting(take: Callable[[Percentiles], float]) -> Callable[[Reading], float | None]:
    return lambda reading: take(reading.wait) if reading.wait else None


def _footprint_row(results: Results, target: str) -> list[str]:
    footprint = results.footprints[target]
    return [
        target,
        _number(median(footprint.start_up), 2),
        _number(footprint.idle_mib, 0),
        footprint.problem or _number(footprint.streams_mib, 0),
    ]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, labels: int) -> str:
    """Renders a table in Markdown; the first columns are labels, the others numbers."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if column < labels else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rule = (
        f"{'-' * (width + 2)}" if column < labels else f"{'-' * (width + 1)}:" for column, width in enumerate(widths)
    )
    return "\n".join([line(head), f"|{'|'.join(rule)}|", *map(line, rows)])
