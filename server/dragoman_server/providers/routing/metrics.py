"""How the targets fare, for Prometheus: read from the routing table when it asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from dragoman_server.providers.routing.table import RoutingTable
    from dragoman_server.providers.routing.tally import Tally
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.settings import ModelSettings

    Labels = tuple[str, str]
    """Provider and model."""

T = TypeVar("T")

OTHER = "other"
"""Label of the models that are asked for by names that nobody configured: clients may think of any number."""

LABELS = ("provider", "model")


class _Counter(NamedTuple):
    """A number that is told of each label.

    Attributes:
        name: Name of the metric.
        what: Its description.
        read: Reads it.
    """

    name: str
    what: str
    read: Callable[[Tally], float]


_IN_FLIGHT = _Counter("dragoman_target_in_flight", "Requests that a target is serving.", lambda tally: tally.in_flight)
_COUNTERS = (
    _Counter("dragoman_target_attempts", "Requests that a target was asked.", lambda tally: tally.attempts),
    _Counter("dragoman_target_retries", "Those that were tried before, there or elsewhere.", lambda t: t.retries),
    _Counter("dragoman_target_turned_away", "Requests that a target had no room for.", lambda tally: tally.turned_away),
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
        targets = [(self._labels(target), target) for target in self._table.targets if target.tally.attempts]
        tallies = [(labels, target.tally) for labels, target in targets]
        tallies += [((provider, OTHER), tally) for provider, tally in self._table.lone.items()]
        yield _filled(GaugeMetricFamily, _IN_FLIGHT.name, _IN_FLIGHT.what, _sums(tallies, _IN_FLIGHT.read))
        queued = _sums(targets, lambda target: target.queued)
        yield _filled(GaugeMetricFamily, "dragoman_target_queued", "Requests that wait for a target.", queued)
        for name, what, read in _COUNTERS:
            yield _filled(CounterMetricFamily, name, what, _sums(tallies, read))
        opened = _sums(targets, lambda target: target.breaker.opened)
        what = "Times that a target was shut off."
        yield _filled(CounterMetricFamily, "dragoman_target_breaker_opened", what, opened)
        yield _breakers(targets)
        yield _errors(tallies)

    def _labels(self, target: Target) -> Labels:
        """Returns provider and model; a provider's own list of models is of this server's making, too."""
        provider, model = target.provider, target.upstream_model
        known = (provider.name, model) in self._configured or any(model == own.id for own in provider.models)
        return provider.name, model if known else OTHER


def _sums(counted: Iterable[tuple[Labels, T]], read: Callable[[T], float]) -> Mapping[Labels, float]:
    """Returns the sum of a number by labels: several may share them."""
    sums: defaultdict[Labels, float] = defaultdict(float)
    for labels, item in counted:
        sums[labels] += read(item)
    return sums


def _filled(
    kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, what: str, sums: Mapping[Labels, float]
) -> Metric:
    family = kind(name, what, labels=LABELS)
    for labels, value in sums.items():
        family.add_metric(labels, value)
    return family


def _breakers(targets: Iterable[tuple[Labels, Target]]) -> Metric:
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


def _errors(tallies: Iterable[tuple[Labels, Tally]]) -> Metric:
    errors: Counter[tuple[str, str]] = Counter()
    for (provider, _), tally in tallies:
        for reason, count in tally.failures.items():
            errors[provider, reason] += count
    family = CounterMetricFamily(
        "dragoman_upstream_errors",
        "Requests that providers failed, retried ones included.",
        labels=("provider", "reason"),
    )
    for labels, count in errors.items():
        family.add_metric(labels, count)
    return family
