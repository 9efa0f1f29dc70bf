from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dragoman.v1.message_pb2 import ROLE_DEVELOPER
from dragoman_server.errors import UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.dialects import WIRE_DIALECTS
from dragoman_server.providers.facts import facts_of_vendor
from dragoman_server.providers.registry import (
    DIALECTS,
    facts_of_provider,
    make_provider,
    make_providers,
    server_of,
    vendor_of,
)
from dragoman_server.providers.vendors import vendors
from dragoman_server.settings import LocalSettings, ProviderSettings, Settings
from tests.support.generation import Recording, chat, generate
from tests.support.upstream_server import DONE, UpstreamServer, chunk, raw, stream


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


def test_quirks_of_the_settings_win_over_those_of_the_vendor() -> None:
    dialect = WIRE_DIALECTS["openai_chat"]()
    told = settings(vendor="groq", quirks={"stream_usage": False, "developer_role": False, "unsupported": ["user"]})
    quirks = server_of(told, dialect).quirks
    known = vendors()["groq"].quirks
    assert quirks == replace(known, stream_usage=False, developer_role=False, unsupported=frozenset({"user"}))
    assert quirks.max_tokens_field == known.max_tokens_field == "max_completion_tokens"
    assert server_of(settings(vendor="groq"), dialect).quirks is known


async def test_quirks_of_a_server_that_nobody_knows_reach_the_wire() -> None:
    quirks = {
        "max_tokens_field": "max_completion_tokens",
        "developer_role": True,
        "stream_usage": False,
        "unsupported": ["sampling.seed"],
    }
    answer = stream(chunk({"content": "a"}), chunk({}, "stop"), DONE)
    async with UpstreamServer(raw(answer)) as server:
        provider = make_provider(settings(dialect="openai_chat", base_url=server.url, quirks=quirks))
        spec = chat("hi")
        spec.messages[0].role = ROLE_DEVELOPER
        spec.sampling.max_output_tokens = 3
        await generate(provider, GenerationRequest(spec, "m"))
        spec.sampling.seed = 7
        with pytest.raises(UnsupportedFeature):
            provider.start(GenerationRequest(spec, "m"), Recording())
        await provider.close()
        (request,) = server.requests
    assert request.json == {
        "model": "m",
        "messages": [{"role": "developer", "content": "hi"}],
        "max_completion_tokens": 3,
        "stream": True,
    }
