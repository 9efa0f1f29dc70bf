"""What a provider lacks is left out and told, stood in for and told, or refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.v1.message_pb2 import ImageDetail
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import REASONING_EFFORT_HIGH, REASONING_EFFORT_MINIMAL, VERBOSITY_LOW
from dragoman_server.errors import Dispensable, DragomanError, UnsupportedFeature
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.routing.adaptation import DROPPABLE
from dragoman_server.providers.routing.generation import RoutedGeneration
from dragoman_server.providers.routing.route import Route
from tests.support.generation import chat
from tests.support.routing import AttemptRecording, PlayedProvider, route_over


def knowing_not(*paths: str) -> Any:
    """Returns a provider's refusal of the first of some fields that is set."""

    def refuse(request: GenerationRequest) -> None:
        for path in paths:
            message: Any = request.spec
            *above, name = path.split(".")
            for step in above:
                message = getattr(message, step)
            if any(descriptor.name == name for descriptor, _ in message.ListFields()):
                raise UnsupportedFeature(f"no word for {path}", field=path)

    return refuse


def start(route: Route, spec: ChatSpec) -> RoutedGeneration:
    recording = AttemptRecording()
    generation = route.start(GenerationRequest(spec, ""), recording)
    recording.starting = False
    return generation


def asked() -> ChatSpec:
    spec = chat("hello")
    spec.sampling.top_k = 5
    spec.sampling.temperature = 0.5
    spec.sampling.logprobs = True
    spec.sampling.top_logprobs = 3
    spec.verbosity = VERBOSITY_LOW
    return spec


async def test_a_model_that_rejects_says_which_field() -> None:
    one = PlayedProvider("one", knowing_not("sampling.top_k"))
    with pytest.raises(UnsupportedFeature) as caught:
        start(route_over(one), asked())
    assert caught.value.field == "sampling.top_k"


async def test_a_model_that_reports_leaves_fields_out_and_tells() -> None:
    one = PlayedProvider("one", knowing_not("sampling.top_k", "verbosity", "sampling.logprobs"))
    spec = asked()
    before = spec.SerializeToString(deterministic=True)
    generation = start(route_over(one, unsupported_params="report"), spec)
    assert generation.dropped == ["sampling.top_k", "verbosity", "sampling.logprobs", "sampling.top_logprobs"]
    sent = one.last.request.spec
    assert [descriptor.name for descriptor, _ in sent.sampling.ListFields()] == ["temperature"]
    assert not sent.verbosity
    assert spec.SerializeToString(deterministic=True) == before, "a spec is never changed"


async def test_what_an_answer_is_made_of_is_never_left_out() -> None:
    spec = asked()
    spec.tools.add().function.name = "f"
    one = PlayedProvider("one", knowing_not("tools"))
    with pytest.raises(UnsupportedFeature):
        start(route_over(one, unsupported_params="report"), spec)


async def test_a_field_that_is_refused_though_it_is_not_set_ends_the_asking() -> None:
    def refuse(request: GenerationRequest) -> None:
        raise UnsupportedFeature("always", field="sampling.top_k")

    with pytest.raises(UnsupportedFeature):
        start(route_over(PlayedProvider("one", refuse), unsupported_params="report"), chat("hello"))


def sparing(request: GenerationRequest) -> None:
    """Refuses as a provider does that knows no budgets, and whose model does not think."""
    if request.spec.HasField("reasoning_budget_tokens"):
        refusal = UnsupportedFeature if request.spec.reasoning_budget_tokens else Dispensable
        raise refusal("no budgets", field="reasoning_budget_tokens")
    if request.spec.reasoning_effort == REASONING_EFFORT_MINIMAL:
        raise Dispensable("no thoughts", field="reasoning_effort")


async def test_what_is_dispensable_is_left_out_whatever_the_policy_and_told() -> None:
    spec = chat("hello")
    spec.reasoning_budget_tokens, spec.reasoning_effort = 0, REASONING_EFFORT_HIGH
    one = PlayedProvider("one", sparing)
    assert start(route_over(one), spec).dropped == ["reasoning_budget_tokens", "reasoning_effort"]
    assert not one.last.request.spec.reasoning_effort, "the budget was stronger"
    spec.reasoning_budget_tokens = 5
    with pytest.raises(UnsupportedFeature):
        start(route_over(one), spec)
    assert start(route_over(one, unsupported_params="report"), spec).dropped == ["reasoning_budget_tokens"]
    assert one.last.request.spec.reasoning_effort == REASONING_EFFORT_HIGH
    spec.ClearField("reasoning_budget_tokens")
    spec.reasoning_effort = REASONING_EFFORT_MINIMAL
    assert start(route_over(one), spec).dropped == ["reasoning_effort"]


def called(*indexes: int) -> EventBatch:
    """Returns whole calls of these indexes, and a text between them."""
    batch = EventBatch()
    for index in indexes:
        started = batch.events.add().tool_call_started
        started.call_index, started.name = index, f"f{index}"
        batch.events.add().text_delta.text = "."
        delta = batch.events.add().tool_call_arguments_delta
        delta.call_index, delta.arguments = index, "{}"
        batch.events.add().tool_call_completed.call_index = index
    return batch


@pytest.mark.parametrize("policy", ["reject", "report"])
async def test_calls_are_held_to_one_where_the_provider_cannot(policy: str) -> None:
    one = PlayedProvider("one", knowing_not("parallel_tool_calls"))
    spec = chat("hello")
    spec.parallel_tool_calls = False
    recording = AttemptRecording()
    generation = route_over(one, unsupported_params=policy).start(GenerationRequest(spec, ""), recording)
    recording.starting = False
    assert (generation.dropped, generation.emulated) == ([], ["parallel_tool_calls"])
    assert not one.last.request.spec.HasField("parallel_tool_calls")
    for batch in (called(0, 1), called(2), called(1)):
        one.last.sink.on_events(batch)
    one.last.finish()
    told = [event for event in recording.events if event.HasField("tool_call_started")]
    assert [event.tool_call_started.name for event in told] == ["f0"]
    assert all(
        event.tool_call_arguments_delta.call_index == event.tool_call_completed.call_index == 0
        for event in recording.events
    )
    assert recording.text == "...."


async def test_calls_that_may_be_several_stay_a_matter_of_the_policy() -> None:
    one = PlayedProvider("one", knowing_not("parallel_tool_calls"))
    spec = chat("hello")
    spec.parallel_tool_calls = True
    with pytest.raises(UnsupportedFeature):
        start(route_over(one), spec)
    assert start(route_over(one, unsupported_params="report"), spec).dropped == ["parallel_tool_calls"]


async def test_another_target_starts_from_the_whole_request() -> None:
    one, two = PlayedProvider("one", knowing_not("sampling.top_k")), PlayedProvider("two")
    recording = AttemptRecording()
    generation = route_over(one, two, unsupported_params="report").start(GenerationRequest(asked(), ""), recording)
    recording.starting = False
    assert generation.dropped == ["sampling.top_k"]
    one.last.fail()
    assert recording.attempts == [(2, "two", [], [])]
    assert two.last.request.spec.sampling.top_k == 5


def with_parts() -> ChatSpec:
    """A request with hints on parts of messages, of results and of tools."""
    spec = chat("hello")
    for detail in (ImageDetail.IMAGE_DETAIL_HIGH, ImageDetail.IMAGE_DETAIL_LOW):
        image = spec.messages[0].parts.add().image
        image.url, image.detail = "https://example.com/a.png", detail
    spec.messages[0].parts[0].cache_breakpoint.ttl = "1h"
    result = spec.messages.add().parts.add().tool_result.parts.add()
    result.image.detail = ImageDetail.IMAGE_DETAIL_HIGH
    for name in ("f", "g"):
        function = spec.tools.add().function
        function.name, function.strict = name, True
    return spec


def refusing_one_by_one(request: GenerationRequest) -> None:
    """Refuses as providers do: at the first part, by its place."""
    for at, message in enumerate(request.spec.messages):
        for place, part in enumerate(message.parts):
            field = f"messages[{at}].parts[{place}]"
            if part.image.detail:
                raise UnsupportedFeature("no detail", field=f"{field}.image.detail")
            if part.cache_breakpoint.ttl:
                raise UnsupportedFeature("no times", field=f"{field}.cache_breakpoint.ttl")
            for inner, result in enumerate(part.tool_result.parts):
                if result.image.detail:
                    raise UnsupportedFeature("no", field=f"{field}.tool_result.parts[{inner}].image.detail")
    for at, tool in enumerate(request.spec.tools):
        if tool.function.strict:
            raise UnsupportedFeature("not strict", field=f"tools[{at}].function.strict")


async def test_hints_on_parts_are_left_out_everywhere_at_once() -> None:
    asked: list[GenerationRequest] = []

    def refuse(request: GenerationRequest) -> None:
        asked.append(request)
        refusing_one_by_one(request)

    one = PlayedProvider("one", refuse)
    generation = start(route_over(one, unsupported_params="report"), with_parts())
    assert generation.dropped == [
        "messages[].parts[].cache_breakpoint.ttl",
        "messages[].parts[].image.detail",
        "messages[].parts[].tool_result.parts[].image.detail",
        "tools[].function.strict",
    ]
    assert len(asked) == 5, "not once for each image"
    expected = with_parts()
    expected.messages[0].parts[0].cache_breakpoint.ClearField("ttl")
    for part in (*expected.messages[0].parts[1:], expected.messages[1].parts[0].tool_result.parts[0]):
        part.image.ClearField("detail")
    for tool in expected.tools:
        tool.function.ClearField("strict")
    assert one.last.request.spec == expected


async def test_hints_on_parts_are_refused_where_nothing_may_be_left_out() -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        start(route_over(PlayedProvider("one", refusing_one_by_one)), with_parts())
    assert caught.value.field == "messages[0].parts[0].cache_breakpoint.ttl"


def test_every_droppable_field_is_one_of_the_contract() -> None:
    for path in DROPPABLE:
        descriptor = ChatSpec.DESCRIPTOR
        *above, name = path.split(".")
        for step in above:
            field = descriptor.fields_by_name[step.removesuffix("[]")]
            assert field.message_type is not None
            assert field.is_repeated == step.endswith("[]")
            descriptor = field.message_type
        assert name in descriptor.fields_by_name


async def test_capabilities_of_the_configuration_are_believed() -> None:
    from dragoman_server.catalog.service import Catalog
    from dragoman_server.settings import ModelSettings

    one = PlayedProvider("one")
    settings = ModelSettings(
        id="x", provider="one", upstream_model="m", capabilities={"json_object": False, "tools": False}
    )
    route = Catalog([one], [settings]).resolve("x")
    spec = chat("hello")
    spec.response_format.json_object.SetInParent()
    assert start(route, spec).emulated == ["response_format.json_object"]
    assert not one.last.request.spec.HasField("response_format")
    spec.tools.add().function.name = "f"
    with pytest.raises(DragomanError) as caught:
        start(route, spec)
    assert caught.value.field == "tools"
    await asyncio.sleep(0)
