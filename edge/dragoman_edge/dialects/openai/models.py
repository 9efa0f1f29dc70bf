"""Tells of the models: what OpenAI tells, and beside it what gateways tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.sampling_pb2 import Modality
from dragoman_edge.dialects.openai.errors import param_of_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.catalog_service_pb2 import Model, ModelPrices

_PREFIX = "MODALITY_"


def model_object(model: Model) -> dict[str, Any]:
    """Returns a model; what is not known of it is not there."""
    told: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": model.create_time.seconds,
        "owned_by": model.owner,
    }
    if model.context_length:
        told["context_length"] = model.context_length
    if model.max_output_tokens:
        told["max_output_tokens"] = model.max_output_tokens
    if model.input_modalities:
        told["input_modalities"] = _words(model.input_modalities)
    if model.output_modalities:
        told["output_modalities"] = _words(model.output_modalities)
    if model.HasField("capabilities"):
        told["capabilities"] = [field.name for field, _ in model.capabilities.ListFields()]
    if model.limits:
        told["limits"] = {
            param_of_field(name): {"min": limit.min, "max": limit.max} for name, limit in sorted(model.limits.items())
        }
    if model.defaults:
        told["defaults"] = {param_of_field(name): value for name, value in sorted(model.defaults.items())}
    if model.HasField("prices"):
        told["pricing"] = _pricing(model.prices)
    return told


def _words(modalities: Iterable[Modality]) -> list[str]:
    return [Modality.Name(modality).removeprefix(_PREFIX).lower() for modality in modalities]


def _pricing(prices: ModelPrices) -> dict[str, Any]:
    """Returns what a million tokens cost, in millionths of the currency."""
    told = {
        "currency": prices.currency_code,
        "input_micros": prices.input_micros,
        "output_micros": prices.output_micros,
    }
    return told | ({"cached_input_micros": prices.cached_input_micros} if prices.cached_input_micros else {})
