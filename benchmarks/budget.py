"""The budgets of the server, and whether a run kept them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.results import BASE, median

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Results


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper bound.

    Attributes:
        target: Whose.
        what: Of what, for people.
        measure: Draws the figure of a target from results; None if there is none.
        limit: The most it may be.
        cell: The cell that the figure comes from, if it comes from one.
    """

    target: str
    what: str
    measure: Callable[[Results, str], float | None]
    limit: float
    cell: str = ""


def _cpu(target: str, cell: str, limit: float) -> Budget:
    what = f"CPU, {cell}, x {BASE}"
    return Budget(target, what, lambda results, target: results.cpu_ratio(target, cell), limit, cell)


def _unfairness(results: Results, target: str) -> float | None:
    return results.median(target, "burst128", lambda reading: reading.unfairness)


BUDGETS = (
    _cpu("one", "plain16", 1.3),
    _cpu("one", "paced64", 1.2),
    _cpu("one", "burst16", 1.5),
    Budget("one", "slowest first event, burst128, medians", _unfairness, 3.0, "burst128"),
    Budget("one", "start-up, s", lambda results, target: median(results.footprints[target].start_up), 1.5),
    Budget("one", "RSS idle, MiB", lambda results, target: results.footprints[target].idle_mib, 120.0),
    Budget("one", "1,000 idle streams, MiB", lambda results, target: results.footprints[target].streams_mib, 60.0),
    _cpu("split", "paced64", 3.3),
    _cpu("split", "burst16", 2.5),
)
TARGETS = tuple(dict.fromkeys((BASE, *(budget.target for budget in BUDGETS))))
"""The targets that the budgets need."""
CELLS = tuple(dict.fromkeys(budget.cell for budget in BUDGETS if budget.cell))
"""The cells that they need."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A budget and what became of it.

    Attributes:
        budget: The budget.
        value: The figure; None if the run has none, or one with errors, which keeps no budget.
    """

    budget: Budget
    value: float | None

    @property
    def kept(self) -> bool:
        """Whether the budget was kept."""
        return self.value is not None and self.value <= self.budget.limit

    def __str__(self) -> str:
        value = "no reading" if self.value is None else f"{self.value:.2f}"
        budget = self.budget
        return (
            f"{'pass' if self.kept else 'FAIL'}  {budget.target:5}  {budget.what:40}  {value:>10} <= {budget.limit:g}"
        )


def check(results: Results) -> list[Verdict]:
    """Compares results with the budgets."""
    return [Verdict(budget, _value(results, budget)) for budget in BUDGETS]


def _value(results: Results, budget: Budget) -> float | None:
    if budget.target not in results.footprints or (budget.cell and results.errors(budget.target, budget.cell)):
        return None
    return budget.measure(results, budget.target)
