"""Turns texts into vectors: checks the request, finds the model, asks its provider, and checks what that says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest, NotFound, ProviderError, UnsupportedFeature
from dragoman_server.providers.base import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest, EmbedResponse
    from dragoman_server.caller import Caller
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.telemetry.tracing import EmbeddingTrace, Tracer

MAX_INPUTS = 2048
CHARACTERS_PER_TOKEN = 4
"""For estimates: about what English text has with the tokenizers of today."""


class Embeddings:
    """Vectors for callers.

    Args:
        catalog: The models.
        default_model: Id or alias of the model of requests that name none; empty means the first that can.
        on_end: Is told what was consumed, and of which provider.
        tracer: Traces the requests, if anyone does.
    """

    def __init__(
        self,
        catalog: Catalog,
        default_model: str = "",
        on_end: Callable[[EmbedResponse], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._catalog = catalog
        self._default = default_model
        self._on_end = on_end
        self._tracer = tracer

    async def embed(self, caller: Caller, request: EmbedRequest) -> EmbedResponse:
        """Returns one vector for each input. Nothing is shown before all is there, so that any failure may be retried.

        Raises:
            InvalidRequest: If the request breaks the contract.
            NotFound: If there is no such model (MODEL_NOT_FOUND).
            UnsupportedFeature: If the model makes no vectors, or cannot do what is asked for.
            DragomanError: If the provider refuses or fails.
        """
        if self._tracer is None:
            return await self._embed(request, None)
        with self._tracer.embedding(request.model) as trace:
            response = await self._embed(request, trace)
            trace.answered(response)
            return response

    async def _embed(self, request: EmbedRequest, trace: EmbeddingTrace | None) -> EmbedResponse:
        validate(request)
        try:
            route = self._catalog.resolve(request.model or self._default_model())
        except NotFound as error:
            error.field = "model"
            raise
        attempts = 0

        async def ask(target: Target) -> EmbedResponse:
            nonlocal attempts
            attempts += 1
            provider = target.provider
            if not isinstance(provider, Embedder):
                raise UnsupportedFeature(f"provider {provider.name} makes no vectors", field="model")
            if trace is None:
                response = await provider.embed(request, target.upstream_model)
            else:
                with trace.attempt(provider.name, target.upstream_model, attempts):
                    response = await provider.embed(request, target.upstream_model)
            _check(response, request, provider.name)
            response.provider = provider.name
            response.upstream_model = target.upstream_model
            return response

        response = await route.call(ask)
        response.model = route.model_id
        response.attempts = attempts
        if not response.usage.input_tokens:
            response.usage.input_tokens = sum(map(_estimate, request.inputs))
            response.usage.estimated = True
        if self._on_end is not None:
            self._on_end(response)
        return response

    def _default_model(self) -> str:
        """Returns the model of requests that name none: as configured, or the first of the first provider that can.

        Raises:
            NotFound: If there is none.
        """
        if self._default:
            return self._default
        for provider in self._catalog.providers:
            for model in provider.models:
                if model.capabilities.embeddings:
                    return f"{provider.name}/{model.id}"
        for model in self._catalog.list():
            if model.capabilities.embeddings:
                return model.id
        raise NotFound(
            "the request names no model, and the server knows none that makes vectors", reason=Reason.MODEL_NOT_FOUND
        )


def validate(request: EmbedRequest) -> None:
    """Checks what types cannot.

    Raises:
        InvalidRequest: If the request breaks the contract.
    """
    if not 1 <= len(request.inputs) <= MAX_INPUTS:
        message = f"`inputs` must have 1 to {MAX_INPUTS} items, not {len(request.inputs)}"
        raise InvalidRequest(message, field="inputs")
    for index, item in enumerate(request.inputs):
        kind, field = item.WhichOneof("kind"), f"inputs[{index}]"
        if kind is None:
            raise InvalidRequest(f"`{field}` must be a text or tokens", field=field)
        if not (item.text or item.tokens.ids):
            raise InvalidRequest(f"`{field}.{kind}` must not be empty", field=f"{field}.{kind}")
        if item.tokens.ids and min(item.tokens.ids) < 0:
            raise InvalidRequest(f"`{field}.tokens` must not be negative", field=f"{field}.tokens")
    if request.HasField("dimensions") and request.dimensions < 1:
        raise InvalidRequest("`dimensions` must be at least 1", field="dimensions")


def _check(response: EmbedResponse, request: EmbedRequest, provider: str) -> None:
    """Makes sure that there is a good vector for each input."""
    lengths = {len(embedding.values) for embedding in response.embeddings}
    wanted = {request.dimensions} if request.HasField("dimensions") else lengths
    if len(response.embeddings) != len(request.inputs) or len(lengths) != 1 or 0 in lengths or lengths != wanted:
        problem = f"{len(response.embeddings)} vectors of the lengths {sorted(lengths)}"
    elif not all(math.isfinite(sum(embedding.values)) for embedding in response.embeddings):
        problem = "vectors with members that are no numbers"
    else:
        return
    raise ProviderError(
        f"provider {provider} returned {problem} for {len(request.inputs)} inputs",
        reason=Reason.PROVIDER_PROTOCOL,
        metadata={"provider": provider},
    )


def _estimate(item: EmbeddingInput) -> int:
    """Returns a guess from the length of the text, for providers that report nothing."""
    return len(item.tokens.ids) or -(-len(item.text) // CHARACTERS_PER_TOKEN)
