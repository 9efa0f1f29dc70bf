"""The table of all targets of a server, and the making of routes."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

from dragoman_server.providers.routing.adaptation import Policy
from dragoman_server.providers.routing.deadlines import Deadlines
from dragoman_server.providers.routing.generation import RoutedGeneration
from dragoman_server.providers.routing.route import Route
from dragoman_server.providers.routing.strategy import STRATEGIES, Option, priority
from dragoman_server.providers.routing.tally import Tally
from dragoman_server.providers.routing.target import Bounds, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dragoman_server.providers.base import Provider
    from dragoman_server.providers.routing.adaptation import Check
    from dragoman_server.providers.routing.strategy import Strategy
    from dragoman_server.settings import ModelSettings, ProviderSettings, RoutingSettings
    from dragoman_server.telemetry.tracing import Tracer

    Checker = Callable[[Target], Check | None]
    """Returns what refuses requests that a target is known not to serve, or None."""

MAX_TARGETS = 4096
"""Most targets that are shared, if clients may think of their names. Beyond that, each request has its own."""


class RoutingTable:
    """Makes routes. The same model of the same provider is one target, whatever models route to it.

    Args:
        settings: How requests find a target.
        providers: The providers by name.
        configured: How much each provider takes; those that are missing take whatever comes.
        clock: Seconds that never go back.
        random: Chance.
        tracer: Traces the attempts, if anyone does.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        providers: Mapping[str, Provider],
        configured: Iterable[ProviderSettings] = (),
        *,
        clock: Callable[[], float] = monotonic,
        random: Random | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._bounds = {
            provider.name: Bounds(provider.max_concurrency, provider.max_queue, provider.queue_timeout)
            for provider in configured
        }
        self._clock = clock
        self._random = random or Random()  # it spreads load and guards nothing
        self._tracer = tracer
        self._targets: dict[tuple[str, str], Target] = {}
        self._lone: defaultdict[str, Tally] = defaultdict(Tally)
        self._deadlines: Deadlines[RoutedGeneration] = Deadlines(
            settings.total_timeout, RoutedGeneration.overdue, clock
        )

    @property
    def targets(self) -> Iterable[Target]:
        """The shared targets that were ever routed to, for metrics."""
        return self._targets.values()

    @property
    def lone(self) -> Mapping[str, Tally]:
        """Counts of all targets that are not shared, by their provider."""
        return self._lone

    def target(self, provider: str, upstream_model: str, *, made_up: bool = False) -> Target:
        """Returns the target of a provider's model.

        Args:
            provider: Name of the provider.
            upstream_model: The provider's own name of the model.
            made_up: Whether nobody names the model but a client.
        """
        key = (provider, upstream_model)
        target = self._targets.get(key)
        if target is None:
            bounds = self._bounds.get(provider, Bounds())
            has_room = not made_up or len(self._targets) < MAX_TARGETS
            tally = None if has_room else self._lone[provider]
            target = Target(
                self._providers[provider], upstream_model, self._settings.breaker, bounds, self._clock, tally
            )
            if has_room:
                self._targets[key] = target
        return target

    def route(self, model: ModelSettings, check: Checker | None = None) -> Route:
        """Returns the route of a configured model.

        Args:
            model: The model.
            check: Tells what refuses requests that a target is known not to serve, if anything does.
        """
        if model.targets:
            options = tuple(
                Option(self.target(entry.provider, entry.upstream_model), entry.weight, entry.order)
                for entry in model.targets
            )
        else:
            options = (Option(self.target(model.provider, model.upstream_model)),)
        attempts = model.max_attempts or self._settings.max_attempts
        policy = Policy(model.unsupported_params == "report", model.emulate_json)
        return self._make(model.id, options, attempts, STRATEGIES[model.strategy], policy, check)

    def direct(
        self, model_id: str, provider: str, upstream_model: str, check: Checker | None = None, *, made_up: bool = False
    ) -> Route:
        """Returns the route of a model that is asked for by its provider's name; see `route` and `target`."""
        options = (Option(self.target(provider, upstream_model, made_up=made_up)),)
        return self._make(model_id, options, self._settings.max_attempts, priority, Policy(), check)

    def alone(self, model_id: str, provider: Provider) -> Route:
        """Returns a route to a target that no other request shares, so that none suffers from its failures."""
        tally = self._lone[provider.name]
        target = Target(provider, model_id, self._settings.breaker, Bounds(), self._clock, tally)
        return self._make(model_id, (Option(target),), self._settings.max_attempts, priority, Policy(), None)

    def _make(
        self,
        model_id: str,
        options: Sequence[Option],
        max_attempts: int,
        strategy: Strategy,
        policy: Policy,
        checker: Checker | None,
    ) -> Route:
        targets = [option.target for option in options] if checker is not None else []
        checks = {target: check for target in targets if checker and (check := checker(target)) is not None}
        return Route(
            model_id=model_id,
            options=options,
            settings=self._settings,
            max_attempts=max_attempts,
            deadlines=self._deadlines,
            clock=self._clock,
            random=self._random,
            strategy=strategy,
            policy=policy,
            checks=checks,
            tracer=self._tracer,
        )
