"""What is known of a model: the built-in facts about vendors' models, and what the configuration says instead."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities, ModelPrices
from dragoman.v1.sampling_pb2 import Modality

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dragoman_server.settings import ModelSettings, PriceSettings

MODALITIES: Mapping[str, Modality] = {
    "text": Modality.MODALITY_TEXT,
    "audio": Modality.MODALITY_AUDIO,
    "image": Modality.MODALITY_IMAGE,
    "video": Modality.MODALITY_VIDEO,
    "file": Modality.MODALITY_FILE,
}
ASSUMED = frozenset({"chat", "tools", "parallel_tool_calls", "json_schema", "json_object", "logprobs", "vision"})
"""What a model of which nothing is known may be able to do: what it cannot, its provider refuses by name."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model.

    Attributes:
        known: Whether it is known what it produces; if not, that and its capabilities are only assumed.
        context_length: Most tokens of prompt and answer together; 0 when unknown.
        max_output_tokens: Most tokens of one answer; 0 when unknown.
        reads: What it reads.
        writes: What it produces.
        capabilities: What it can do, by the names in `ModelCapabilities`.
        prices: What it costs; None when unknown.
        unsupported: Fields of `ChatSpec` that it does not know, as paths.
        thinks: Whether it may think before it answers: false only if it is known not to.
    """

    known: bool = False
    context_length: int = 0
    max_output_tokens: int = 0
    reads: tuple[Modality, ...] = (Modality.MODALITY_TEXT,)
    writes: tuple[Modality, ...] = (Modality.MODALITY_TEXT,)
    capabilities: frozenset[str] = ASSUMED
    prices: ModelPrices | None = field(default=None, compare=False)
    unsupported: frozenset[str] = frozenset()
    thinks: bool = True

    def describe(self, model: Model) -> None:
        """Writes the facts into a catalogue entry."""
        model.context_length = self.context_length
        model.max_output_tokens = self.max_output_tokens
        model.input_modalities[:] = self.reads
        model.output_modalities[:] = self.writes
        model.capabilities.CopyFrom(ModelCapabilities(**dict.fromkeys(self.capabilities, True)))
        if self.prices is not None:
            model.prices.CopyFrom(self.prices)

    def with_settings(self, settings: ModelSettings) -> Facts:
        """Returns the facts as the configuration corrects them."""
        switched = dict[str, bool](settings.capabilities.items())
        return replace(
            self,
            known=self.known or bool(settings.output_modalities),
            context_length=settings.context_length or self.context_length,
            max_output_tokens=settings.max_output_tokens or self.max_output_tokens,
            reads=_modalities(settings.input_modalities) or self.reads,
            writes=_modalities(settings.output_modalities) or self.writes,
            capabilities=frozenset(
                name for name in self.capabilities | switched.keys() if switched.get(name, name in self.capabilities)
            ),
            prices=_prices(settings.prices) if settings.prices is not None else self.prices,
            thinks=switched.get("reasoning", self.thinks),
        )


UNKNOWN = Facts()


def facts_of_vendor(vendor: str) -> Mapping[str, Facts]:
    """Returns what is known of a vendor's models, by the vendor's own names of them."""
    rows = _table().get(vendor)
    return {} if rows is None else _facts_of_rows(vendor)


def facts_of_model(model: Model) -> Facts:
    """Returns what a provider itself tells of one of its models."""
    return Facts(
        known=True,
        context_length=model.context_length,
        max_output_tokens=model.max_output_tokens,
        reads=tuple(model.input_modalities),
        writes=tuple(model.output_modalities),
        capabilities=frozenset(descriptor.name for descriptor, _ in model.capabilities.ListFields()),
        prices=model.prices if model.HasField("prices") else None,
        thinks=model.capabilities.reasoning,
    )


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    table: dict[str, dict[str, dict[str, Any]]] = orjson.loads(
        resources.files(__package__).joinpath("models.json").read_bytes()
    )
    return table


@cache
def _facts_of_rows(vendor: str) -> Mapping[str, Facts]:
    return {name: _facts(row) for name, row in _table()[vendor].items()}


def _facts(row: dict[str, Any]) -> Facts:
    prices = row.get("prices")
    return Facts(
        known=True,
        context_length=row.get("context_length", 0),
        max_output_tokens=row.get("max_output_tokens", 0),
        reads=_modalities(row["input"]),
        writes=_modalities(row["output"]),
        capabilities=frozenset(row["capabilities"]),
        prices=ModelPrices(currency_code="USD", **prices) if prices is not None else None,
        unsupported=frozenset(row.get("unsupported", ())),
        thinks="reasoning" in row["capabilities"],
    )


def _modalities(names: Sequence[str]) -> tuple[Modality, ...]:
    return tuple(MODALITIES[name] for name in names)


def _prices(settings: PriceSettings) -> ModelPrices:
    return ModelPrices(
        currency_code=settings.currency,
        input_micros=settings.input_micros,
        output_micros=settings.output_micros,
        cached_input_micros=settings.cached_input_micros,
    )
