"""Measures the server against a bare relay, in one run: `python -m benchmarks`, from the root of the project."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks import budget, measure, report
from benchmarks.cells import CELLS
from benchmarks.targets import TARGETS, TargetFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.results import Results

T = TypeVar("T")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="See docs/benchmarks.md.")
    parser.add_argument("--quick", action="store_true", help="one short round, in under a minute")
    parser.add_argument("--only", metavar="TARGET,…", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--cells", metavar="CELL,…", help=f"of {', '.join(CELLS)}; default: all")
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--seconds", type=float, help="length of a reading; default: 2, or 1 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw readings there")
    parser.add_argument("--budget", action="store_true", help="measure what has a budget; fail if one is not kept")
    return parser.parse_args()


def _choose(names: str | None, default: Sequence[str], known: Mapping[str, T]) -> list[T]:
    """Looks up names that are given on the command line.

    Raises:
        SystemExit: If one is unknown.
    """
    chosen = names.split(",") if names else default
    if unknown := [name for name in chosen if name not in known]:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in chosen]


def _options(arguments: argparse.Namespace) -> measure.Options:
    quick = arguments.quick
    return measure.Options(
        targets=_choose(arguments.only, budget.TARGETS if arguments.budget else list(TARGETS), TARGETS),
        cells=_choose(arguments.cells, budget.CELLS if arguments.budget else list(CELLS), CELLS),
        rounds=arguments.rounds or (1 if quick else 3),
        seconds=arguments.seconds or (1.0 if quick else 2.0),
        starts=1 if quick else 3,
    )


def _dump(results: Results, options: measure.Options) -> str:
    machine = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
    settings = {"rounds": options.rounds, "seconds": options.seconds, "load_at_end": os.getloadavg()[0]}
    return json.dumps({"machine": machine, "settings": settings, **dataclasses.asdict(results)}, indent=1)


def main() -> int:
    """Runs the benchmark; returns the exit status."""
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmark reads /proc: it needs Linux.")
    arguments = _arguments()
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything started is ended
    with tempfile.TemporaryDirectory(prefix="dragoman-benchmark-") as folder:
        try:
            results = measure.run(options, Path(folder))
        except (TargetFailedError, TimeoutError) as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    if arguments.json:
        arguments.json.write_text(_dump(results, options))
    print(report.render(results))
    if not arguments.budget:
        return 0
    verdicts = budget.check(results)
    print("\n" + "\n".join(map(str, verdicts)))
    return 0 if all(verdict.kept for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
