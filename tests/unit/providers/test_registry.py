from __future__ import annotations

from typing import Any

import pytest

from dragoman_server.providers.facts import facts_of_vendor
from dragoman_server.providers.registry import DIALECTS, facts_of_provider, make_providers, vendor_of
from dragoman_server.providers.vendors import vendors
from dragoman_server.settings import LocalSettings, ProviderSettings, Settings


def settings(**fields: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"name": "p", **fields})


@pytest.mark.parametrize(
    ("fields", "vendor"),
    [
        ({"vendor": "anthropic"}, "anthropic"),
        ({"vendor": "openai", "base_url": "http://127.0.0.1:9/v1"}, "openai"),
        ({"dialect": "openai_chat", "base_url": "https://api.deepseek.com"}, "deepseek"),
        ({"dialect": "anthropic_messages", "base_url": "https://api.deepseek.com/anthropic"}, None),
        (
            {"vendor": "deepseek", "dialect": "anthropic_messages", "base_url": "https://api.deepseek.com/anthropic"},
            None,
        ),
        ({"dialect": "openai_chat", "base_url": "http://127.0.0.1:9/v1"}, None),
        ({"dialect": "scripted"}, None),
        ({"dialect": "plugin", "base_url": "127.0.0.1:50052"}, None),
    ],
)
def test_whose_server_it_is(fields: dict[str, str], vendor: str | None) -> None:
    found = vendor_of(settings(**fields))
    assert (found and found.name) == vendor
    assert facts_of_provider(settings(**fields)) == (facts_of_vendor(vendor) if vendor else {})


@pytest.mark.parametrize("vendor", vendors())
async def test_every_vendor_can_be_configured_by_its_name_alone(vendor: str) -> None:
    address = {} if vendors()[vendor].base_url else {"base_url": "https://me.example.org/v1"}
    tree = Settings(local=LocalSettings(enabled=False), providers=(settings(vendor=vendor, api_key="k", **address),))
    (provider,) = make_providers(tree)
    assert provider.serves_any
    assert [model.id for model in provider.models] == list(facts_of_vendor(vendor))
    await provider.close()


def test_every_dialect_of_a_vendor_has_a_provider() -> None:
    assert {vendor.dialect for vendor in vendors().values()} <= DIALECTS.keys()
