"""Prints which models clients may ask for, and which vendors the server knows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from dragoman.v1.catalog_service_pb2 import ModelTarget
from dragoman.v1.sampling_pb2 import Modality
from dragoman_cli.output import CommandError, say, table
from dragoman_cli.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_server.settings import Settings

_NOTHING = "-"


def list_all(config: Path | None, flags: Mapping[str, object], *, grpc: str | None, key: str, as_json: bool) -> None:
    """Prints the catalogue: that of the server at a gRPC address, or that of the configuration.

    Raises:
        CommandError: If it cannot be had.
    """
    models = _of_server(grpc, key) if grpc is not None else _of_configuration(load_settings(config, flags))
    if as_json:
        say(json.dumps([MessageToDict(model, preserving_proto_field_name=True) for model in models], indent=2))
        return
    heads = ["MODEL", "CONTEXT", "OUTPUT", "READS", "WRITES", "PRICE IN/OUT", "CAN"]
    rows = [_row(model) for model in models]
    if grpc is not None:
        heads.append("SERVED BY")
        rows = [[*row, _targets(model)] for row, model in zip(rows, models, strict=True)]
    table(heads, rows)


def list_vendors() -> None:
    """Prints the vendors that a provider of the configuration can name."""
    from dragoman_server.providers.vendors import vendors

    table(
        ("VENDOR", "NAME", "DIALECT", "ADDRESS", "KEY"),
        [
            (name, vendor.title, vendor.dialect, vendor.base_url or _NOTHING, vendor.key_variable or _NOTHING)
            for name, vendor in vendors().items()
        ],
    )


def _of_server(address: str, key: str) -> list[Model]:
    from dragoman_client import Dragoman, DragomanClientError

    async def ask() -> list[Model]:
        async with Dragoman(address, key) as client:
            return await client.models()

    try:
        return asyncio.run(ask())
    except DragomanClientError as error:
        raise CommandError(error.message) from error


def _of_configuration(settings: Settings) -> list[Model]:
    """Returns the models of the configuration; those of plugins are known only while they run."""
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.errors import DragomanError
    from dragoman_server.providers.registry import known_facts, make_providers

    async def describe() -> list[Model]:
        providers = make_providers(settings)
        try:
            return Catalog(providers, settings.models, settings.default_model, facts=known_facts(settings)).list()
        finally:
            for provider in providers:
                await provider.close()

    try:
        return asyncio.run(describe())
    except DragomanError as error:
        raise CommandError(error.message) from error


def _row(model: Model) -> list[str]:
    return [
        f"{model.id} *" if model.is_default else model.id,
        _count(model.context_length),
        _count(model.max_output_tokens),
        _modalities(model.input_modalities),
        _modalities(model.output_modalities),
        _prices(model),
        ",".join(descriptor.name for descriptor, _ in model.capabilities.ListFields()) or _NOTHING,
    ]


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else _NOTHING


def _modalities(modalities: Iterable[Modality]) -> str:
    return ",".join(Modality.Name(modality).removeprefix("MODALITY_").lower() for modality in modalities) or _NOTHING


def _prices(model: Model) -> str:
    """Returns what a million tokens cost, read and written."""
    if not model.HasField("prices"):
        return _NOTHING
    prices = model.prices
    return f"{prices.input_micros / 1e6:g}/{prices.output_micros / 1e6:g} {prices.currency_code}"


def _targets(model: Model) -> str:
    return ", ".join(f"{target.provider}/{target.upstream_model} {_health(target)}" for target in model.targets)


def _health(target: ModelTarget) -> str:
    health = ModelTarget.Health.Name(target.health).removeprefix("HEALTH_").lower()
    return f"{health} ({target.fault})" if target.fault else health
