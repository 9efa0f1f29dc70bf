from __future__ import annotations

from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import ModelTarget
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Modality, Sampling
from dragoman.v1.tool_pb2 import FunctionTool, Tool
from dragoman_server.caller import EVERYTHING, Grants
from dragoman_server.catalog.service import LONGEST_NAME, Catalog
from dragoman_server.errors import InvalidRequest, NotFound, UnsupportedFeature
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.registry import known_facts, make_providers
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.settings import LocalSettings, ModelSettings, ProviderSettings, Settings
from tests.support.generation import Recording, chat

OPENAI = ProviderSettings(name="oa", vendor="openai")
ANTHROPIC = ProviderSettings(name="an", vendor="anthropic")
OTHER = ProviderSettings(name="other", dialect="openai_chat", base_url="http://127.0.0.1:9/v1")
TOOLS = ChatSpec(tools=[Tool(function=FunctionTool(name="f"))])


def model(**fields: Any) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "provider": "oa", "upstream_model": "gpt-4.1", **fields})


def catalog(*aliases: ModelSettings, providers: tuple[ProviderSettings, ...] = (OPENAI, ANTHROPIC, OTHER)) -> Catalog:
    tree = Settings(local=LocalSettings(enabled=False), providers=providers)
    return Catalog(make_providers(tree), aliases, facts=known_facts(tree))


def refusal(catalog: Catalog, model_id: str, spec: ChatSpec) -> str:
    """The field that a model refuses."""
    request = GenerationRequest(chat("hi"), "")
    request.spec.MergeFrom(spec)
    with pytest.raises(UnsupportedFeature) as caught:
        catalog.resolve(model_id).start(request, Recording())  # type: ignore[arg-type] # refused before it is used
    return caught.value.field


def test_the_known_models_of_a_vendor_are_listed_with_their_facts() -> None:
    entries = {entry.id: entry for entry in catalog().list()}
    entry = entries["oa/gpt-4.1"]
    assert entry.context_length > 1_000_000
    assert Modality.MODALITY_IMAGE in entry.input_modalities
    assert entry.capabilities.tools
    assert entry.capabilities.chat
    assert entry.prices.input_micros > 0
    assert entry.prices.currency_code == "USD"
    assert (entry.provider, entry.upstream_model, entry.owner) == ("oa", "gpt-4.1", "oa")
    assert [target.health for target in entry.targets] == [ModelTarget.HEALTH_UP]
    assert not any(name.startswith("other/") for name in entries)


def test_models_are_listed_in_pages() -> None:
    known = [entry.id for entry in catalog(model()).list()]
    assert known == sorted(known)
    assert [entry.id for entry in catalog(model()).list(after=known[1], limit=2)] == known[2:4]
    assert catalog(model()).list(after=known[-1]) == []


async def test_names_that_clients_think_of_take_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman_server.providers.routing.table.MAX_TARGETS", 2)
    monkeypatch.setattr("dragoman_server.catalog.service.MAX_REMEMBERED", 2)
    full = catalog(model())
    for number in range(4):
        full.resolve(f"other/{number}")
    for named in ("m", "oa/gpt-4.1-mini"):
        assert full.resolve(named) is full.resolve(named), "its target has one breaker and one queue"
    assert full.resolve("other/0") is full.resolve("other/0")
    assert full.resolve("other/3") is not full.resolve("other/3")


def test_names_that_clients_think_of_are_short() -> None:
    assert catalog().resolve("other/" + "x" * (LONGEST_NAME - 6))
    with pytest.raises(NotFound) as caught:
        catalog().resolve("other/" + "x" * (LONGEST_NAME - 5))
    assert (caught.value.reason, caught.value.field) == (Reason.MODEL_NOT_FOUND, "spec.chat.model")
    elsewhere: Any = object()  # it is not even asked
    asked = ChatSpec(model="x" * (LONGEST_NAME + 1), upstream={"base_url": "http://127.0.0.1:9"})
    with pytest.raises(InvalidRequest, match="longer than"):
        Catalog([], [], proxy=elsewhere).route(asked)


def test_a_model_of_which_nothing_is_known_may_do_anything() -> None:
    entry = catalog().get("other/whatever")
    assert entry.context_length == 0
    assert entry.capabilities.tools
    assert not entry.HasField("prices")


def test_the_configuration_corrects_the_facts() -> None:
    limits = {"temperature": {"min": 0.0, "max": 1.0}}
    alias = model(
        context_length=1000, capabilities={"vision": False}, owner="us", limits=limits, defaults={"top_p": 0.5},
        out_of_range="clamp", prices={"input_micros": 1, "output_micros": 2, "currency": "EUR"},
    )  # fmt: skip
    entry = catalog(alias).get("m")
    assert (entry.context_length, entry.owner, entry.clamps) == (1000, "us", True)
    assert entry.max_output_tokens > 0
    assert not entry.capabilities.vision
    assert entry.capabilities.tools
    assert entry.prices.currency_code == "EUR"
    assert entry.limits["temperature"].max == 1.0
    assert dict(entry.defaults) == {"top_p": 0.5}


def test_what_a_model_is_known_not_to_do_is_refused_by_name() -> None:
    assert refusal(catalog(), "oa/text-embedding-3-small", ChatSpec()) == "model"
    assert (
        refusal(catalog(), "an/claude-fable-5", ChatSpec(sampling=Sampling(temperature=0.1))) == "sampling.temperature"
    )
    assert refusal(catalog(model(capabilities={"tools": False})), "m", TOOLS) == "tools"
    unknown = model(provider="other", upstream_model="x", capabilities={"tools": False})
    assert refusal(catalog(unknown), "m", TOOLS) == "tools"


def test_what_is_not_known_is_not_refused() -> None:
    route = catalog(model(provider="other", upstream_model="x", context_length=5)).resolve("m")
    assert not route.checks


def test_each_target_is_checked_by_what_is_known_of_it() -> None:
    targets = [{"provider": "other", "upstream_model": "x"}, {"provider": "an", "upstream_model": "claude-fable-5"}]
    route = catalog(model(provider="", upstream_model="", targets=tuple(targets))).resolve("m")
    assert [target.upstream_model for target in route.checks] == ["claude-fable-5"]


def test_the_default_is_a_providers_own_model_or_else_the_first_configured() -> None:
    assert catalog(model()).default_model == "m"
    assert catalog().default_model == ""
    with pytest.raises(NotFound) as caught:
        catalog().resolve("")
    assert caught.value.reason == Reason.MODEL_NOT_FOUND
    assert Catalog([ScriptedProvider("s")], [model(provider="s")]).default_model == "s/echo"


def test_the_short_way_to_a_route_is_open_where_nothing_else_has_a_say() -> None:
    models = catalog(
        model(),
        model(id="limited", limits={"top_p": {"min": 0, "max": 1}}),
        model(id="preset", presets={"general": {"temperature": 0.1}}),
        model(id="filled", defaults={"temperature": 0.5}),
    )
    free = ["", "m", "other/x", "oa/gpt-4.1"]
    for model_id in [*free, "limited", "preset", "filled"]:
        assert models.route_of_plain(model_id, EVERYTHING) is None  # not asked for yet
        asked = chat("hi")
        asked.model = model_id
        route = models.route(asked)
        if model_id in free:
            assert models.route_of_plain(model_id, EVERYTHING) is route
            assert models.settle(route, asked) is asked
        else:
            assert models.route_of_plain(model_id, EVERYTHING) is None
        assert models.route_of_plain(model_id, Grants(models=("m",))) is None
