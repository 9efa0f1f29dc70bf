"""Turns texts into vectors: checks the request, finds the model, asks its provider, and checks what that says."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import EmbedResponse
from dragoman.v1.run_pb2 import Run
from dragoman_server.catalog.grants import permitted
from dragoman_server.errors import (
    DragomanError,
    Forbidden,
    InvalidRequest,
    NotFound,
    ProviderError,
    Unavailable,
    UnsupportedFeature,
)
from dragoman_server.ids import new_id
from dragoman_server.providers.base import Embedder
from dragoman_server.providers.usage import sum_of_calls
from dragoman_server.telemetry.logs import get_logger
from dragoman_server.usage.service import tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest
    from dragoman_server.caller import Caller
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.credits.service import Credits, Hold
    from dragoman_server.providers.routing.route import Route
    from dragoman_server.providers.routing.target import Target
    from dragoman_server.ratelimits.service import RateLimits, Slot
    from dragoman_server.telemetry.tracing import EmbeddingTrace, Tracer
    from dragoman_server.usage.service import UsageLog

logger = get_logger(__name__)

MAX_INPUTS = 2048
OPERATION = "embeddings"
"""What it is called in prices and usage records."""
CHARACTERS_PER_TOKEN = 4
"""For estimates: about what English text has with the tokenizers of today."""


class Embeddings:
    """Vectors for callers.

    Args:
        catalog: The models.
        default_model: Id or alias of the model of requests that name none; empty means the first that can.
        on_end: Is told what was consumed, and of which provider; there are no vectors if it was for nothing.
        tracer: Traces the requests, if anyone does.
        limits: How much callers may ask for, if anything bounds it.
        credits: What it costs, if anything does.
        usage: Keeps what was used, if anything does.
    """

    def __init__(
        self,
        catalog: Catalog,
        default_model: str = "",
        on_end: Callable[[EmbedResponse], None] | None = None,
        tracer: Tracer | None = None,
        limits: RateLimits | None = None,
        credits: Credits | None = None,
        usage: UsageLog | None = None,
    ) -> None:
        self._catalog = catalog
        self._default = default_model
        self._on_end = on_end
        self._tracer = tracer
        self._limits = limits
        self._credits = credits
        self._usage = usage
        self._active = 0
        self._idle: asyncio.Event | None = None  # while the server drains

    async def embed(self, caller: Caller, request: EmbedRequest) -> EmbedResponse:
        """Returns one vector for each input. Nothing is shown before all is there, so that any failure may be retried.

        Raises:
            InvalidRequest: If the request breaks the contract.
            NotFound: If there is no such model (MODEL_NOT_FOUND).
            UnsupportedFeature: If the model makes no vectors, or cannot do what is asked for.
            Unavailable: If the server shuts down (SHUTTING_DOWN).
            DragomanError: If the provider refuses or fails.
        """
        with self._at_work():
            if self._tracer is None:
                return await self._admitted(caller, request, None)
            with self._tracer.embedding(request.model) as trace:
                response = await self._admitted(caller, request, trace)
                trace.answered(response)
                return response

    async def drain(self, timeout: float) -> None:
        """Takes no new requests, and waits up to `timeout` seconds for the others to end."""
        self._idle = asyncio.Event()
        if self._active:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                logger.warning("breaking off requests for vectors that did not end in time", requests=self._active)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if self._idle is not None:
            raise Unavailable("the server is shutting down; try again", reason=Reason.SHUTTING_DOWN, retry_after=1)
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._idle is not None and not self._active:
                self._idle.set()

    async def _admitted(self, caller: Caller, request: EmbedRequest, trace: EmbeddingTrace | None) -> EmbedResponse:
        """Embeds within the caller's limits, for credits, and keeps what was used."""
        validate(request)
        try:
            route = permitted(self._catalog.resolve(request.model or self._default_model()), caller.grants)
        except (NotFound, Forbidden) as error:
            error.field = "model"
            raise
        slot = await self._slot(caller)
        record = Run(id=new_id("emb"), model=route.model_id, state=Run.STATE_FAILED)
        record.create_time.FromNanoseconds(time.time_ns())
        began = time.monotonic()
        try:
            hold = await self._reserve(caller, request, record)
        except BaseException:
            if slot is not None:
                slot.end(0)
            raise
        try:
            response = await self._embed(route, request, record, trace)
            record.state = Run.STATE_COMPLETED
            record.usage.CopyFrom(response.usage)
            if hold is not None:
                response.charge.CopyFrom(await hold.settle(response.usage, "completed"))
                record.charge.CopyFrom(response.charge)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            record.state = Run.STATE_CANCELLED if cancelled else Run.STATE_FAILED
            if isinstance(error, DragomanError):
                record.failure.reason = error.reason
            if hold is not None:
                hold.settle(None, "cancelled" if cancelled else "failed")
            raise
        finally:
            if slot is not None:
                slot.end(record.usage.input_tokens)
            if self._usage is not None:
                elapsed = int((time.monotonic() - began) * 1000)
                created = record.create_time.ToMicroseconds()
                charge = record.charge if record.HasField("charge") else None
                tokens = tokens_of(record.usage)
                self._usage.note(record, caller, OPERATION, tokens, created, elapsed, elapsed, charge)
        if slot is not None and slot.state is not None:
            response.rate_state.CopyFrom(slot.state)
        return response

    async def _slot(self, caller: Caller) -> Slot | None:
        if self._limits is None:
            return None
        slot = self._limits.admit(caller)
        return await slot if inspect.isawaitable(slot) else slot

    async def _reserve(self, caller: Caller, request: EmbedRequest, record: Run) -> Hold | None:
        if self._credits is None or not self._credits.enabled:
            return None
        return await self._credits.hold(
            caller,
            run_id=record.id,
            step_id="",
            operation=OPERATION,
            model=record.model,
            token_type="",
            input_tokens=sum(_most(item) for item in request.inputs),
            output_tokens=0,
        )

    async def _embed(
        self, route: Route, request: EmbedRequest, record: Run, trace: EmbeddingTrace | None
    ) -> EmbedResponse:
        """Asks the route. What attempts consumed that came to nothing is part of the usage, also if all of them did."""
        attempts = 0

        def check(target: Target) -> None:
            if not isinstance(target.provider, Embedder):
                raise UnsupportedFeature(f"provider {target.provider.name} makes no vectors", field="model")
            if not self._catalog.may_embed(route, target):
                raise UnsupportedFeature(f"the model {target.upstream_model} makes no vectors", field="model")

        async def ask(target: Target) -> EmbedResponse:
            nonlocal attempts
            attempts += 1
            name, embedder = target.provider.name, cast("Embedder", target.provider)
            record.provider = name
            try:
                if trace is None:
                    response = await embedder.embed(request, target.upstream_model)
                else:
                    with trace.attempt(name, target.upstream_model, attempts):
                        response = await embedder.embed(request, target.upstream_model)
                _check(response, request, name)
            except ProviderError as error:
                if error.usage is not None:
                    record.usage.CopyFrom(sum_of_calls(error.usage, record.usage))
                raise
            response.provider = name
            response.upstream_model = target.upstream_model
            return response

        try:
            response = await route.call(ask, check)
        except DragomanError:
            if record.HasField("usage"):
                self._tell(EmbedResponse(provider=record.provider, usage=record.usage))
            raise
        response.model = route.model_id
        response.attempts = attempts
        if not response.usage.input_tokens:
            response.usage.input_tokens = sum(map(_estimate, request.inputs))
            response.usage.estimated = True
        if record.HasField("usage"):
            response.usage.CopyFrom(sum_of_calls(response.usage, record.usage))
        self._tell(response)
        return response

    def _tell(self, response: EmbedResponse) -> None:
        if self._on_end is not None:
            self._on_end(response)

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
    error = ProviderError(
        f"provider {provider} returned {problem} for {len(request.inputs)} inputs",
        reason=Reason.PROVIDER_PROTOCOL,
        metadata={"provider": provider},
    )
    error.usage = response.usage
    raise error


def _most(item: EmbeddingInput) -> int:
    """Returns how many tokens an input has at most, as far as that can be told without its model's tokenizer."""
    return len(item.tokens.ids) or -(-len(item.text.encode()) // 3) + 2


def _estimate(item: EmbeddingInput) -> int:
    """Returns a guess from the length of the text, for providers that report nothing."""
    return len(item.tokens.ids) or -(-len(item.text) // CHARACTERS_PER_TOKEN)
