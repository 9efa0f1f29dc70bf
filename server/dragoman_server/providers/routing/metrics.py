"""How the targets fare, for Prometheus: read from the routing table when it asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from dragoman_server.providers.routing.table import RoutingTable
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.settings import ModelSettings

OTHER = "other"
"""Label of the models that are asked for by names that nobody configured: clients may think of any number."""

LABELS = ("provider", "model")


class _Count(NamedTuple):
    """A counter of targets."""

    name: str
    what: str
    read: Callable[[Target], float]


_GAUGES = (
    _Count("dragoman_target_in_flight", "Requests that a target is serving.", lambda target: target.in_flight),
    _Count("dragoman_target_queued", "Requests that wait for a target.", lambda target: target.queued),
)
_COUNTERS = (
    _Count("dragoman_target_attempts", "Requests that a target was asked.", lambda target: target.attempts),
    _Count("dragoman_target_retries", "Those of them that were tried before, there or elsewhere.", lambda t: t.retries),
    _Count("dragoman_target_turned_away", "Requests that a target had no room for.", lambda target: target.turned_away),
    _Count("dragoman_target_breaker_opened", "Times that a target was shut off.", lambda target: target.breaker.opened),
)


class TargetMetrics(Collector):
    """The metrics of targets.

    Args:
        registry: Where they are exposed.
        table: The targets.
        models: The configured models: their targets are labelled by name.
    """

    def __init__(self, registry: CollectorRegistry, table: RoutingTable, models: Iterable[ModelSettings]) -> None:
        self._table = table
        self._configured = {(model.provider, model.upstream_model) for model in models} | {
            (target.provider, target.upstream_model) for model in models for target in model.targets
        }
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        targets = [(self._labels(target), target) for target in self._table.targets]
        for gauge in _GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.what, labels=LABELS)
            for labels, value in _sums(targets, gauge.read).items():
                family.add_metric(labels, value)
            yield family
        for counter in _COUNTERS:
            counted = CounterMetricFamily(counter.name, counter.what, labels=LABELS)
            for labels, value in _sums(targets, counter.read).items():
                counted.add_metric(labels, value)
            yield counted
        yield _breakers(targets)
        yield _errors(targets)

    def _labels(self, target: Target) -> tuple[str, str]:
        """Returns provider and model; a provider's own list of models is of this server's making, too."""
        provider, model = target.provider, target.upstream_model
        known = (provider.name, model) in self._configured or any(model == own.id for own in provider.models)
        return provider.name, model if known else OTHER


def _sums(targets: list[tuple[tuple[str, str], Target]], read: Callable[[Target], float]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for labels, target in targets:
        sums[labels] += read(target)  # type: ignore[assignment]  # a Counter adds any numbers
    return sums


def _breakers(targets: list[tuple[tuple[str, str], Target]]) -> Metric:
    """Returns how many targets are in which state: one in one, but where several share their labels."""
    states: Counter[tuple[str, str, str]] = Counter()
    for (provider, model), target in targets:
        breaker = target.breaker
        now = "closed" if breaker.closed else "half_open" if breaker.probing else "open"
        for state in ("closed", "half_open", "open"):
            states[provider, model, state] += state == now
    family = GaugeMetricFamily(
        "dragoman_target_breaker", "Whether the circuit breaker of a target is in a state.", labels=(*LABELS, "state")
    )
    for labels, count in states.items():
        family.add_metric(labels, count)
    return family


def _errors(targets: list[tuple[tuple[str, str], Target]]) -> Metric:
    errors: Counter[tuple[str, str]] = Counter()
    for (provider, _), target in targets:
        for reason, count in target.failures.items():
            errors[provider, reason] += count
    family = CounterMetricFamily(
        "dragoman_upstream_errors",
        "Requests that providers failed, retried ones included.",
        labels=("provider", "reason"),
    )
    for labels, count in errors.items():
        family.add_metric(labels, count)
    return family
