from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.message_pb2 import FilePart, ImagePart, Message, Part, Role, TextPart, ToolResult
from dragoman.v1.run_pb2 import ChatSpec, TaskProfile
from dragoman.v1.sampling_pb2 import JsonObjectFormat, JsonSchemaFormat, ReasoningEffort, ResponseFormat, Sampling
from dragoman.v1.tool_pb2 import FunctionTool, Tool
from dragoman_server.catalog.rules import Rules
from dragoman_server.errors import Dispensable, InvalidRequest, UnsupportedFeature
from dragoman_server.providers.abilities import Abilities
from dragoman_server.providers.facts import UNKNOWN, Facts, facts_of_model, facts_of_vendor
from dragoman_server.providers.vendors import may_be_unsupported, vendors
from dragoman_server.settings import ModelSettings, PriceSettings


def spec(*, role: Role = Role.ROLE_USER, profile: TaskProfile | None = None, **sampling: float) -> ChatSpec:
    chat = ChatSpec(messages=[Message(role=role, parts=[Part(text=TextPart(text="Hello"))])], task_profile=profile)
    for name, value in sampling.items():
        setattr(chat.sampling, name, value)
    return chat


def settings(**given: object) -> ModelSettings:
    return ModelSettings.model_validate({"id": "m", "provider": "p", "upstream_model": "u", **given})


def test_nothing_to_settle_gives_the_same_message() -> None:
    asked = spec(temperature=2)
    assert Rules(UNKNOWN).settle(asked) is asked
    assert Rules(UNKNOWN, settings(limits={"top_p": {"min": 0, "max": 1}})).settle(asked) is asked


def test_defaults_fill_what_is_open_and_nothing_else() -> None:
    asked = spec(temperature=0)
    settled = Rules(UNKNOWN, settings(defaults={"temperature": 0.5, "top_p": 0.8, "top_k": 20})).settle(asked)
    assert settled.sampling == Sampling(temperature=0, top_p=0.8, top_k=20)
    assert asked.sampling == Sampling(temperature=0)


@given(value=st.floats(0, 2), low=st.floats(0, 1), high=st.floats(1, 2))
def test_values_out_of_range_are_clamped_or_refused(value: float, low: float, high: float) -> None:
    limits = {"temperature": {"min": low, "max": high}}
    clamped = Rules(UNKNOWN, settings(limits=limits, out_of_range="clamp")).settle(spec(temperature=value))
    assert clamped.sampling.temperature == min(max(value, low), high)
    strict = Rules(UNKNOWN, settings(limits=limits))
    if low <= value <= high:
        assert strict.settle(spec(temperature=value)).sampling.temperature == value
    else:
        with pytest.raises(InvalidRequest) as caught:
            strict.settle(spec(temperature=value))
        assert caught.value.field == "spec.chat.sampling.temperature"


def test_a_default_out_of_range_is_clamped_too() -> None:
    rules = Rules(
        UNKNOWN,
        settings(limits={"top_k": {"min": 1, "max": 10}}, defaults={"top_k": 50}, out_of_range="clamp"),
    )
    assert rules.settle(spec()).sampling.top_k == 10


PRESETS = {"coding": {"temperature": 0.1}, "general": {"temperature": 0.9}, "reasoning": {"temperature": 0.6}}


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [
        (spec(), 0.9),
        (spec(role=Role.ROLE_DEVELOPER), 0.1),
        (spec(role=Role.ROLE_DEVELOPER, profile=TaskProfile.TASK_PROFILE_GENERAL), 0.9),
        (spec(profile=TaskProfile.TASK_PROFILE_REASONING), 0.6),
        (spec(profile=TaskProfile.TASK_PROFILE_REASONING, temperature=0.3), 0.3),
    ],
)
def test_presets_follow_the_task_profile(asked: ChatSpec, temperature: float) -> None:
    settled = Rules(UNKNOWN, settings(presets=PRESETS, defaults={"temperature": 0.5})).settle(asked)
    assert settled.sampling.temperature == temperature
    assert not settled.task_profile


def test_built_in_presets_count_only_when_asked_for() -> None:
    assert not Rules(UNKNOWN).settle(spec(role=Role.ROLE_DEVELOPER)).HasField("sampling")
    settled = Rules(UNKNOWN).settle(spec(profile=TaskProfile.TASK_PROFILE_CODING))
    assert settled.sampling.temperature == 0.2


def test_presets_leave_out_what_the_model_does_not_know() -> None:
    facts = Facts(known=True, unsupported=frozenset({"sampling.temperature"}))
    rules = Rules(facts, settings(presets={"coding": {"temperature": 0.1, "top_p": 0.9}}))
    settled = rules.settle(spec(profile=TaskProfile.TASK_PROFILE_CODING))
    assert settled.sampling == Sampling(top_p=0.9)


TOOL = Tool(function=FunctionTool(name="f"))
PICTURE = Part(image=ImagePart(url="https://example.org/a.png"))
IMAGE = Message(role=Role.ROLE_USER, parts=[PICTURE])
IMAGE_FILE = Message(role=Role.ROLE_USER, parts=[Part(file=FilePart(data=b"x", media_type="Image/png"))])
IMAGE_OF_TOOL = Message(role=Role.ROLE_TOOL, parts=[Part(tool_result=ToolResult(call_id="c", parts=[PICTURE]))])


@pytest.mark.parametrize(
    ("capability", "asked", "field"),
    [
        ("tools", ChatSpec(tools=[TOOL]), "tools"),
        ("vision", ChatSpec(messages=[IMAGE]), "messages"),
        ("vision", ChatSpec(messages=[IMAGE_OF_TOOL]), "messages"),
        ("vision", ChatSpec(messages=[IMAGE_FILE]), "messages"),
        ("json_schema", ChatSpec(response_format=ResponseFormat(json_schema=JsonSchemaFormat())), "response_format"),
        ("json_object", ChatSpec(response_format=ResponseFormat(json_object=JsonObjectFormat())), "response_format"),
        ("logprobs", ChatSpec(sampling=Sampling(logprobs=True)), "sampling.logprobs"),
        ("chat", ChatSpec(), "model"),
    ],
)
def test_what_a_known_model_lacks_is_refused_by_name(capability: str, asked: ChatSpec, field: str) -> None:
    able = UNKNOWN.with_settings(settings())
    Abilities(able).check(asked)
    unable = UNKNOWN.with_settings(settings(capabilities={capability: False}))
    with pytest.raises(UnsupportedFeature) as caught:
        Abilities(unable).check(asked)
    assert caught.value.field == field


NONE, MINIMAL, LOW = (getattr(ReasoningEffort, f"REASONING_EFFORT_{word}") for word in ("NONE", "MINIMAL", "LOW"))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (ChatSpec(reasoning_budget_tokens=0), "reasoning_budget_tokens"),
        (ChatSpec(reasoning_budget_tokens=0, reasoning_effort=LOW), "reasoning_budget_tokens"),
        (ChatSpec(reasoning_effort=NONE), "reasoning_effort"),
        (ChatSpec(reasoning_effort=MINIMAL), "reasoning_effort"),
        (ChatSpec(reasoning_effort=LOW), ""),
        (ChatSpec(reasoning_effort=NONE, reasoning_budget_tokens=100), ""),
        (ChatSpec(), ""),
    ],
)
def test_what_a_model_does_that_does_not_think_need_not_be_said(asked: ChatSpec, field: str) -> None:
    dull = Facts(known=True, thinks=False)
    assert not Abilities(dull).boundless
    assert not UNKNOWN.with_settings(settings(capabilities={"reasoning": False})).thinks
    for thinker in (
        dull.with_settings(settings(capabilities={"reasoning": True})),
        UNKNOWN.with_settings(settings(output_modalities=["text"])),  # says nothing of thoughts
        UNKNOWN,
    ):
        Abilities(thinker).check(asked)
    if not field:
        Abilities(dull).check(asked)
        return
    with pytest.raises(Dispensable) as caught:
        Abilities(dull).check(asked)
    assert caught.value.field == field


def test_who_is_known_not_to_think() -> None:
    assert not facts_of_vendor("openai")["gpt-4.1"].thinks
    assert facts_of_vendor("openai")["gpt-5"].thinks
    assert facts_of_model(Model(capabilities=ModelCapabilities(chat=True, reasoning=True))).thinks
    assert not facts_of_model(Model(capabilities=ModelCapabilities(chat=True))).thinks


def test_unsupported_paths_are_refused_when_set() -> None:
    abilities = Abilities(Facts(known=True, unsupported=frozenset({"sampling.seed", "verbosity"})))
    abilities.check(spec(temperature=1))
    with pytest.raises(UnsupportedFeature, match=r"sampling\.seed"):
        abilities.check(spec(seed=0))


def test_neutral_values_of_unsupported_fields_pass() -> None:
    abilities = Abilities(Facts(known=True, unsupported=frozenset({"sampling.temperature", "sampling.top_k"})))
    abilities.check(spec(temperature=1, top_k=0))
    with pytest.raises(UnsupportedFeature):
        abilities.check(spec(temperature=0.9))


def test_configuration_wins_over_the_built_in_facts() -> None:
    base = facts_of_vendor("openai")["gpt-4.1"]
    price = PriceSettings(input_micros=1, output_micros=2)
    facts = base.with_settings(settings(context_length=1000, prices=price, capabilities={"vision": False}))
    assert (facts.context_length, facts.max_output_tokens) == (1000, base.max_output_tokens)
    assert facts.prices is not None
    assert (facts.prices.input_micros, facts.prices.currency_code) == (1, "USD")
    assert base.capabilities - facts.capabilities == {"vision"}


@pytest.mark.parametrize("vendor", vendors())
def test_built_in_facts_make_sense(vendor: str) -> None:
    for name, facts in facts_of_vendor(vendor).items():
        assert name
        assert facts.capabilities & {"chat", "embeddings"}
        assert facts.reads
        assert facts.writes
        assert facts.prices is None or facts.prices.input_micros > 0
        assert all(map(may_be_unsupported, facts.unsupported))


@pytest.mark.parametrize("name", vendors())
def test_vendors_make_sense(name: str) -> None:
    vendor = vendors()[name]
    assert vendor.title
    assert vendor.base_url.startswith(("https://", "http://127.0.0.1:")) or vendor.hosts
    assert all(map(may_be_unsupported, vendor.quirks.unsupported))
