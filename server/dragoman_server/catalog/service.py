"""The catalogue: which models can be asked for, under which names, and who serves them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.sampling_pb2 import Modality
from dragoman_server.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.providers.base import Provider
    from dragoman_server.settings import ModelSettings


MAX_REMEMBERED = 4096
"""Most model ids whose target is remembered: clients may ask a provider for any name."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers for a model.

    Attributes:
        model_id: The catalogue's id, after aliases were resolved.
        provider: Who serves it.
        upstream_model: The provider's own name of it.
    """

    model_id: str
    provider: Provider
    upstream_model: str


class Catalog:
    """The models of a server. Made once; providers may become ready, or learn of models, later.

    Args:
        providers: All providers, by configuration order; names are unique.
        aliases: The configured model ids.
        default_model: Id or alias of the model of requests that name none; empty means the first there is.
    """

    def __init__(
        self, providers: Sequence[Provider], aliases: Sequence[ModelSettings], default_model: str = ""
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._aliases = {alias.id: alias for alias in aliases}
        self._default = default_model
        self._create_time = int(time.time())
        self._targets: dict[str, Target] = {}

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
        """Id of the model of requests that name none; empty if there is no model at all."""
        if self._default:
            return self._default
        for provider in self._providers.values():
            for model in provider.models:
                return f"{provider.name}/{model.id}"
        return next(iter(self._aliases), "")

    def resolve(self, model_id: str) -> Target:
        """Returns who answers for a model, by id or alias; empty means the default model.

        Raises:
            NotFound: If there is no such model (MODEL_NOT_FOUND).
        """
        target = self._targets.get(model_id)
        if target is None:
            target = self._resolve(model_id or self.default_model)
            if len(self._targets) < MAX_REMEMBERED:
                self._targets[model_id] = target
        return target

    def get(self, model_id: str) -> Model:
        """Returns a model, by id or alias; empty means the default model.

        Raises:
            NotFound: If there is no such model (MODEL_NOT_FOUND).
        """
        return self._describe(self.resolve(model_id))

    def list(self) -> list[Model]:
        """Returns all models that are known by name, by id."""
        targets = [self.resolve(alias) for alias in self._aliases]
        for provider in self._providers.values():
            targets += [Target(f"{provider.name}/{model.id}", provider, model.id) for model in provider.models]
        unique = {target.model_id: target for target in targets}
        return [self._describe(unique[model_id]) for model_id in sorted(unique)]

    def _resolve(self, model_id: str) -> Target:
        alias = self._aliases.get(model_id)
        if alias is not None:
            return Target(alias.id, self._providers[alias.provider], alias.upstream_model)
        name, slash, upstream_model = model_id.partition("/")
        provider = self._providers.get(name)
        if provider is not None and slash and upstream_model and _serves(provider, upstream_model):
            return Target(model_id, provider, upstream_model)
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

    def _describe(self, target: Target) -> Model:
        model = Model()
        for known in target.provider.models:
            if known.id == target.upstream_model:
                model.CopyFrom(known)
                break
        else:
            model.input_modalities.append(Modality.MODALITY_TEXT)
            model.output_modalities.append(Modality.MODALITY_TEXT)
            # A remote model may do all of these; what it cannot do, its provider refuses by name.
            capabilities = ModelCapabilities(tools=True, json_schema=True, json_object=True, logprobs=True)
            model.capabilities.CopyFrom(capabilities)
        model.id = target.model_id
        model.provider = target.provider.name
        model.upstream_model = target.upstream_model
        alias = self._aliases.get(target.model_id)
        model.owner = (alias.owner if alias else "") or model.owner or target.provider.name
        if alias and alias.context_length:
            model.context_length = alias.context_length
        if not model.HasField("create_time"):
            model.create_time.FromSeconds(self._create_time)
        model.ready = target.provider.ready
        model.is_default = target.model_id == self.default_model
        return model


def _lists(provider: Provider, upstream_model: str) -> bool:
    return any(model.id == upstream_model for model in provider.models)


def _serves(provider: Provider, upstream_model: str) -> bool:
    return provider.serves_any or _lists(provider, upstream_model)
