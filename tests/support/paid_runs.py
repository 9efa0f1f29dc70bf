"""An engine whose runs cost credits, for tests of what is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.catalog.service import Catalog
from dragoman_server.clock import system_clock
from dragoman_server.credits import advance
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.runs.admission import Domains
from dragoman_server.runs.service import Runs, StartOptions
from dragoman_server.settings import LimitSettings, RunSettings
from dragoman_server.store.memory import MemoryStore
from tests.support.credits import credits_with
from tests.support.routing import QUICK, PlayedProvider
from tests.support.runs import CALLER, chat_spec

if TYPE_CHECKING:
    from dragoman_server.runs.run import LiveRun
    from dragoman_server.store.ledger.records import Act, Told

PLENTY = 10_000_000


class Site:
    """An engine whose runs cost credits, with a ledger that writes when it is told to."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.provider = PlayedProvider("played")
        self.waiting: list[tuple[Act, Told]] | None = None

    async def start(self, *, ahead: bool) -> None:
        self.credits = await credits_with(self.store, PLENTY)
        catalog = Catalog([self.provider], [], routing=RoutingTable(QUICK, {self.provider.name: self.provider}))
        domains = Domains(credits=self.credits)
        self.runs = Runs(RunSettings(), LimitSettings(), catalog, system_clock, domains=domains)
        if ahead:
            balance = (await self.store.ledger.balances("default"))[0]
            for _ in range(advance.BUSY):
                self.credits._advances.missed(balance, 1_000)
        ledger, send = self.store.ledger, self.store.ledger.send

        def send_later(act: Act, then: Told) -> None:
            if self.waiting is None:
                send(act, then)
            else:
                self.waiting.append((act, then))

        ledger.send = send_later  # type: ignore[method-assign]

    async def begin(self, kind: str) -> LiveRun:
        spec = chat_spec(model="played/m")
        spec.chat.sampling.max_output_tokens = 20
        if kind == "labelled":
            spec.labels["a"] = "b"
        request_id = "once" if kind == "repeatable" else ""
        options = StartOptions("ExecuteRun", request_id, incremental=kind == "incremental")
        run = await self.runs.submit(CALLER, spec, options)
        run.add_caller()
        return run

    def write(self) -> None:
        """Lets the ledger write what waits."""
        assert self.waiting is not None
        waiting, self.waiting = self.waiting, None
        for act, then in waiting:
            self.store.ledger.send(act, then)
