"""What the routing table shows to Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dragoman.reasons import Reason
from dragoman_server.providers.routing import table as routing_table
from dragoman_server.providers.routing.metrics import OTHER, TargetMetrics
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.settings import ModelSettings
from tests.support.routing import QUICK, PlayedProvider, ask

MODEL = ModelSettings(id="test", provider="one", upstream_model="m")


def counted(registry: CollectorRegistry, name: str, provider: str, model: str) -> float | None:
    return registry.get_sample_value(f"dragoman_target_{name}", {"provider": provider, "model": model})


async def test_targets_that_nobody_asked_are_not_shown() -> None:
    one = PlayedProvider("one")
    table, registry = RoutingTable(QUICK, {"one": one}), CollectorRegistry()
    TargetMetrics(registry, table, [MODEL])
    route = table.route(MODEL)
    table.direct("one/n", "one", "n")
    assert b'provider="one"' not in generate_latest(registry)
    ask(route)
    assert counted(registry, "in_flight", "one", "m") == 1
    one.last.finish()
    assert counted(registry, "in_flight", "one", "m") == 0
    assert counted(registry, "attempts_total", "one", "m") == 1
    assert counted(registry, "attempts_total", "one", OTHER) is None


async def test_targets_of_one_request_each_are_counted_together() -> None:
    elsewhere = PlayedProvider("elsewhere")
    table, registry = RoutingTable(QUICK, {}), CollectorRegistry()
    TargetMetrics(registry, table, [])
    for number in range(3):
        ask(table.alone(f"model-{number}", elsewhere))
    assert counted(registry, "in_flight", "elsewhere", OTHER) == 3
    elsewhere.played[0].finish()
    elsewhere.played[1].fail(Reason.UPSTREAM_AUTH, retryable=False)
    assert counted(registry, "in_flight", "elsewhere", OTHER) == 1
    assert counted(registry, "attempts_total", "elsewhere", OTHER) == 3
    errors = {"provider": "elsewhere", "reason": Reason.UPSTREAM_AUTH}
    assert registry.get_sample_value("dragoman_upstream_errors_total", errors) == 1
    assert b"model-" not in generate_latest(registry)


async def test_targets_beyond_those_that_are_shared_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_table, "MAX_TARGETS", 1)
    one = PlayedProvider("one")
    table, registry = RoutingTable(QUICK, {"one": one}), CollectorRegistry()
    TargetMetrics(registry, table, [])
    for name in ("a", "b", "b"):
        ask(table.direct(f"one/{name}", "one", name, made_up=True))
    assert counted(registry, "attempts_total", "one", OTHER) == 3
