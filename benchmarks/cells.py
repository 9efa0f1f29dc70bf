"""The cells of the benchmark: which load is put on a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load.

    Attributes:
        name: How it is called on the command line and in the report.
        connections: Connections, each with one request at a time.
        orders: The prompt, which tells the mock upstream how to answer.
        chunks: Pieces of text of a streamed answer; 0 for plain answers.
        spread: Seconds over which the first requests are spread.
    """

    name: str
    connections: int
    orders: str
    chunks: int = 0
    spread: float = 0.0

    @property
    def unit(self) -> str:
        """What CPU time is divided by."""
        return "event" if self.chunks else "request"

    @property
    def events(self) -> tuple[int, int] | None:
        """How many events a good stream has: the pieces, the finish, and at most a role and a usage event besides."""
        return (self.chunks + 1, self.chunks + 3) if self.chunks else None


CELLS = {
    cell.name: cell
    for cell in (
        Cell("plain1", 1, "MOCK chunks=16"),
        Cell("plain16", 16, "MOCK chunks=16"),
        Cell("plain64", 64, "MOCK chunks=16"),
        Cell("burst16", 16, "MOCK chunks=200", chunks=200),
        Cell("paced64", 64, "MOCK chunks=100 delay_us=20000 ttft_us=20000", chunks=100, spread=0.25),
        Cell("burst128", 128, "MOCK chunks=200", chunks=200),
    )
}

IDLE_ORDERS = "MOCK chunks=2 delay_us=50000000"
"""A stream that says one thing and then keeps silent for longer than it is looked at."""
IDLE_STREAMS = 1000
