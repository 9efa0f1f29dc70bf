"""The catalogue: which models can be asked for, under which names, and who serves them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model
from dragoman_server.caller import EVERYTHING, permits_model
from dragoman_server.catalog.grants import permitted
from dragoman_server.catalog.rules import Rules
from dragoman_server.errors import InvalidRequest, NotFound
from dragoman_server.providers.abilities import Abilities
from dragoman_server.providers.facts import UNKNOWN, Facts, facts_of_model
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.settings import RoutingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.caller import Grants
    from dragoman_server.providers.base import Provider
    from dragoman_server.providers.proxy.provider import ProxyProvider
    from dragoman_server.providers.routing.adaptation import Check
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.settings import ModelSettings

MAX_REMEMBERED = 4096
"""Most model ids whose route is remembered, if clients may think of them: some providers serve any name."""

LONGEST_NAME = 512
"""Characters of the longest name of a model that clients may think of: much is remembered by such names."""


class Catalog:
    """The models of a server. Made once; providers may become ready, or learn of models, later.

    Args:
        providers: All providers, by configuration order; names are unique.
        aliases: The configured model ids.
        default_model: Id or alias of the model of requests that name none; empty means the first there is.
        routing: The targets; a table of its own by default.
        proxy: Calls servers that requests name; without it, none is called.
        facts: The built-in facts about models, by the provider and its own name of them.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        aliases: Sequence[ModelSettings],
        default_model: str = "",
        routing: RoutingTable | None = None,
        proxy: ProxyProvider | None = None,
        facts: Mapping[str, Mapping[str, Facts]] | None = None,
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._aliases = {alias.id: alias for alias in aliases}
        self._default = default_model
        self._create_time = int(time.time())
        self._routing = routing or RoutingTable(RoutingSettings(), self._providers)
        self._proxy = proxy
        self._facts: Mapping[str, Mapping[str, Facts]] = facts or {}
        self._routes: dict[str, Route] = {}
        self._rules: dict[str, Rules] = {}  # of configured models
        self._free: dict[str, Route] = {}  # of those in `_routes` that no rules touch

    @property
    def providers(self) -> Sequence[Provider]:
        """All providers."""
        return tuple(self._providers.values())

    @property
    def ready(self) -> bool:
        """Whether every provider is ready."""
        return all(provider.ready for provider in self._providers.values())

    @property
    def default_model(self) -> str:
        """Id of the model of requests that name none; empty if there is no model at all.

        Without a setting: the first that a provider itself offers (the embedded one), or the first configured. What is
        merely known of a vendor's models makes none of them the default.
        """
        if self._default:
            return self._default
        for provider in self._providers.values():
            if provider.models and not self._facts.get(provider.name):
                return f"{provider.name}/{provider.models[0].id}"
        return next(iter(self._aliases), "")

    def route(self, spec: ChatSpec, grants: Grants = EVERYTHING) -> Route:
        """Returns who answers a request.

        Args:
            spec: The request.
            grants: What its caller is restricted to.

        Raises:
            Forbidden: If the caller may not ask for the model, or none of its providers may serve the caller.
            NotFound: If there is no such model (MODEL_NOT_FOUND).
            InvalidRequest: If the request names a server that must not be called (UPSTREAM_NOT_ALLOWED).
        """
        route = self._route_to_upstream(spec) if spec.HasField("upstream") else self.resolve(spec.model)
        return route if grants is EVERYTHING else permitted(route, grants)

    def route_of_plain(self, model_id: str, grants: Grants) -> Route | None:
        """Returns who answers a plain conversation as it is; None if there is more to be asked: see `route`, `settle`.

        Args:
            model_id: The model, by id or alias.
            grants: What the caller is restricted to.
        """
        return self._free.get(model_id) if grants is EVERYTHING else None

    def output_limit(self, route: Route) -> int:
        """Returns the most tokens that the model writes in one answer; 0 if that is not known."""
        alias = self._aliases.get(route.model_id)
        if alias is not None and alias.max_output_tokens:
            return alias.max_output_tokens
        return self._facts_of(route.target).max_output_tokens

    def _route_to_upstream(self, spec: ChatSpec) -> Route:
        if self._proxy is None:
            message = "this server calls no servers that requests name: its allow-list is empty"
            raise InvalidRequest(message, reason=Reason.UPSTREAM_NOT_ALLOWED, field="spec.chat.upstream.base_url")
        if not spec.model:
            raise InvalidRequest("`spec.chat.model` is missing: the upstream server needs it", field="spec.chat.model")
        if len(spec.model) > LONGEST_NAME:
            message = f"`spec.chat.model` is longer than {LONGEST_NAME} characters"
            raise InvalidRequest(message, field="spec.chat.model")
        self._proxy.check(spec.upstream)
        return self._routing.alone(spec.model, self._proxy)

    def resolve(self, model_id: str) -> Route:
        """Returns who answers for a model, by id or alias; empty means the default model.

        Raises:
            NotFound: If there is no such model (MODEL_NOT_FOUND).
        """
        route = self._routes.get(model_id)
        if route is None:
            route = self._resolve(model_id or self.default_model)
            if len(self._routes) < MAX_REMEMBERED or self._is_named(model_id):
                self._routes[model_id] = route
                if (rules := self._rules.get(route.model_id)) is None or not rules.any:
                    self._free[model_id] = route
        return route

    def settle(self, route: Route, spec: ChatSpec) -> ChatSpec:
        """Returns the request with the sampling values that the model's rules give it; the same one, if none do.

        Raises:
            InvalidRequest: If a value is out of the model's range, and the model does not clamp.
        """
        rules = self._rules.get(route.model_id)
        if rules is None:
            if not spec.task_profile:
                return spec
            rules = Rules(self._facts_of(route.target))
        return rules.settle(spec)

    def takes_addresses(self, route: Route) -> bool:
        """Returns whether the model's provider may be asked to fetch images by their address."""
        alias = self._aliases.get(route.model_id)
        return alias is None or alias.remote_images == "pass"

    def may_embed(self, route: Route, target: Target) -> bool:
        """Returns whether a target of a model may make vectors: not if it is known to make none."""
        alias = self._aliases.get(route.model_id)
        if alias is not None and "embeddings" in alias.capabilities:
            return alias.capabilities["embeddings"]
        facts = self._facts_of(target)
        return not facts.known or "embeddings" in facts.capabilities

    def get(self, model_id: str, grants: Grants = EVERYTHING) -> Model:
        """Returns a model, by id or alias; empty means the default model.

        Raises:
            Forbidden: If the caller may not ask for the model.
            NotFound: If there is no such model (MODEL_NOT_FOUND).
        """
        return self._describe(permitted(self.resolve(model_id), grants))

    def list(self, grants: Grants = EVERYTHING, after: str = "", limit: int | None = None) -> list[Model]:
        """Returns the models that are known by name and that a caller may ask for, by id.

        Args:
            grants: What the caller is restricted to.
            after: The id after which they begin.
            limit: Most models; None means all.
        """
        ids = set(self._aliases)
        for provider in self._providers.values():
            ids.update(f"{provider.name}/{model.id}" for model in provider.models)
        wanted = sorted(model_id for model_id in ids if model_id > after and permits_model(grants, model_id))
        return [self._describe(self.resolve(model_id)) for model_id in wanted[:limit]]

    def _resolve(self, model_id: str) -> Route:
        alias = self._aliases.get(model_id)
        if alias is not None:
            route = self._routing.route(alias, lambda target: self._check(target, alias))
            self._rules[alias.id] = Rules(self._facts_of(route.target), alias)
            return route
        name, slash, upstream_model = model_id.partition("/")
        provider = self._providers.get(name)
        if provider is not None and slash and upstream_model and _serves(provider, upstream_model):
            made_up = not _lists(provider, upstream_model)
            if made_up and len(model_id) > LONGEST_NAME:
                raise NotFound(
                    f"the name of the model is longer than {LONGEST_NAME} characters, which no model's is",
                    reason=Reason.MODEL_NOT_FOUND,
                    field="spec.chat.model",
                )
            return self._routing.direct(model_id, name, upstream_model, self._check, made_up=made_up)
        if not model_id:
            raise NotFound(
                "the request names no model, and the server has none to fall back on; configure a provider",
                reason=Reason.MODEL_NOT_FOUND,
                field="spec.chat.model",
            )
        raise NotFound(
            f"the model `{model_id}` does not exist; list the models to see what there is",
            reason=Reason.MODEL_NOT_FOUND,
            field="spec.chat.model",
            metadata={"model": model_id},
        )

    def _is_named(self, model_id: str) -> bool:
        """Returns whether the configuration or a provider names the model."""
        name, _, upstream_model = model_id.partition("/")
        provider = self._providers.get(name)
        return model_id in self._aliases or (provider is not None and _lists(provider, upstream_model))

    def _check(self, target: Target, alias: ModelSettings | None = None) -> Check | None:
        """Returns what refuses requests that a target is known not to serve, or None."""
        facts = self._facts_of(target)
        abilities = Abilities(facts if alias is None else facts.with_settings(alias))
        return None if abilities.boundless else abilities.check

    def _facts_of(self, target: Target) -> Facts:
        return self._facts.get(target.provider.name, {}).get(target.upstream_model, UNKNOWN)

    def _describe(self, route: Route) -> Model:
        model = Model()
        target = route.target
        alias = self._aliases.get(route.model_id)
        facts = self._facts_of(target)
        for known in target.provider.models:
            if known.id == target.upstream_model:
                model.CopyFrom(known)
                facts = facts_of_model(known)
                break
        if alias is not None:
            facts = facts.with_settings(alias)
            _describe_sampling(model, alias)
        facts.describe(model)
        model.id = route.model_id
        model.provider = target.provider.name
        model.upstream_model = target.upstream_model
        vendor, slash, _ = model.id.partition("/")  # of an id in the form `vendor/model`
        model.owner = (alias.owner if alias else "") or model.owner or (vendor if slash else target.provider.name)
        if not model.HasField("create_time"):
            model.create_time.FromSeconds(self._create_time)
        model.is_default = route.model_id == self.default_model
        route.describe(model)
        return model


def _describe_sampling(model: Model, alias: ModelSettings) -> None:
    """Writes into a catalogue entry which sampling values the configuration allows and fills in."""
    for name, limits in alias.limits.items():
        model.limits[name].min, model.limits[name].max = limits.min, limits.max
    for name, value in alias.defaults.items():
        model.defaults[name] = value
    model.clamps = alias.out_of_range == "clamp"


def _lists(provider: Provider, upstream_model: str) -> bool:
    return any(model.id == upstream_model for model in provider.models)


def _serves(provider: Provider, upstream_model: str) -> bool:
    return provider.serves_any or _lists(provider, upstream_model)
