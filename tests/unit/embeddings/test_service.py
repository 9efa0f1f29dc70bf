"""The embedding service over scripted providers: what is refused, what is tried again, what is checked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import Embedding, EmbeddingInput, EmbedRequest, EmbedResponse, TokenList
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.caller import Caller
from dragoman_server.catalog.service import Catalog
from dragoman_server.embeddings.service import MAX_INPUTS, Embeddings
from dragoman_server.errors import (
    DragomanError,
    InvalidRequest,
    NotFound,
    ProviderError,
    Unavailable,
    UnsupportedFeature,
)
from dragoman_server.providers.facts import Facts
from dragoman_server.providers.routing.table import RoutingTable
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.settings import ModelSettings, RoutingSettings, TargetSettings
from tests.support.embedding_upstream import texts, tokens
from tests.support.upstream_server import script

CALLER = Caller("default", "key_1")


class Failing(ScriptedProvider):
    """Fails as it is told, then serves."""

    def __init__(self, name: str, *failures: DragomanError) -> None:
        super().__init__(name)
        self.failures = list(failures)
        self.asked = 0

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return await super().embed(request, model)


class Waiting(ScriptedProvider):
    """Answers when it is told to go on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        self.asked.set()
        await self.goes_on.wait()
        return await super().embed(request, model)


class Answering(ScriptedProvider):
    """Answers whatever it is told."""

    def __init__(self, response: EmbedResponse) -> None:
        super().__init__("one")
        self.response = response

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        return self.response


def service(*providers: Any, default: str = "", models: tuple[ModelSettings, ...] = ()) -> Embeddings:
    named = {provider.name: provider for provider in providers}
    routing = RoutingTable(RoutingSettings(backoff=0.001, max_backoff=0.01), named)
    return Embeddings(Catalog(providers, models, "", routing), default)


def both(**settings: Any) -> tuple[ModelSettings, ...]:
    targets = (
        TargetSettings(provider="one", upstream_model="embed"),
        TargetSettings(provider="two", upstream_model="embed"),
    )
    return (ModelSettings(id="both", targets=targets, **settings),)


async def test_the_answer_tells_who_made_it() -> None:
    made = await service(ScriptedProvider("one")).embed(CALLER, texts("a b", "c", model="one/embed"))
    assert (made.model, made.provider, made.upstream_model, made.attempts) == ("one/embed", "one", "embed", 1)
    assert made.usage == Usage(input_tokens=3)


async def test_the_default_model() -> None:
    one, two = ScriptedProvider("one"), ScriptedProvider("two")
    assert (await service(one, two).embed(CALLER, texts("a"))).model == "one/embed"
    assert (await service(one, two, default="two/embed").embed(CALLER, texts("a"))).model == "two/embed"
    two.models = ()
    assert (await service(two, one).embed(CALLER, texts("a"))).model == "one/embed"
    one.models = ()
    with pytest.raises(NotFound) as caught:
        await service(one, two).embed(CALLER, texts("a"))
    assert (caught.value.reason, caught.value.field) == (Reason.MODEL_NOT_FOUND, "model")


EMPTY = EmbeddingInput()
WRONG = [
    (EmbedRequest(), "inputs"),
    (texts(*["a"] * (MAX_INPUTS + 1)), "inputs"),
    (texts("a", ""), "inputs[1].text"),
    (EmbedRequest(inputs=[EMPTY]), "inputs[0]"),
    (tokens([]), "inputs[0].tokens"),
    (tokens([1, -1]), "inputs[0].tokens"),
    (texts("a", dimensions=0), "dimensions"),
    (texts("a", dimensions=-3), "dimensions"),
    (EmbedRequest(inputs=[EmbeddingInput(tokens=TokenList())]), "inputs[0].tokens"),
]


@pytest.mark.parametrize(("request_", "field"), WRONG, ids=[f"{i}-{field}" for i, (_, field) in enumerate(WRONG)])
async def test_requests_that_break_the_contract(request_: EmbedRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await service(ScriptedProvider("one")).embed(CALLER, request_)
    assert caught.value.field == field
    assert caught.value.reason == Reason.INVALID_REQUEST


async def test_a_full_request_is_served() -> None:
    made = await service(ScriptedProvider("one")).embed(CALLER, texts(*["a"] * MAX_INPUTS, dimensions=1))
    assert len(made.embeddings) == MAX_INPUTS


async def test_unknown_models() -> None:
    with pytest.raises(NotFound) as caught:
        await service(ScriptedProvider("one")).embed(CALLER, texts("a", model="nope"))
    assert (caught.value.reason, caught.value.field) == (Reason.MODEL_NOT_FOUND, "model")


async def test_a_model_that_only_chats() -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        await service(ScriptedProvider("one")).embed(CALLER, texts("a", model="one/echo"))
    assert caught.value.field == "model"


async def test_a_provider_that_only_chats() -> None:
    class Chat:
        name = "chat"
        models = ()
        serves_any = ready = True

    with pytest.raises(UnsupportedFeature) as caught:
        await service(Chat()).embed(CALLER, texts("a", model="chat/any"))
    assert caught.value.field == "model"


async def test_a_model_that_is_known_to_make_no_vectors_is_never_asked() -> None:
    one, two = Failing("one"), ScriptedProvider("two")
    known = {"one": {"embed": Facts(known=True, capabilities=frozenset({"chat"}))}}
    routing = RoutingTable(RoutingSettings(), {"one": one, "two": two})
    made = await Embeddings(Catalog([one, two], both(), "", routing, facts=known)).embed(
        CALLER, texts("a", model="both")
    )
    assert (made.provider, made.attempts, one.asked) == ("two", 1, 0)
    assert [target.tally.attempts for target in routing.targets] == [0, 1]
    with pytest.raises(UnsupportedFeature) as caught:
        await Embeddings(Catalog([one], (), facts=known)).embed(CALLER, texts("a", model="one/embed"))
    assert (caught.value.field, one.asked) == ("model", 0)


@pytest.mark.parametrize("told", [True, False])
async def test_what_the_configuration_says_of_a_model_comes_first(told: bool) -> None:
    one = Failing("one")
    known = {"one": {"embed": Facts(known=True, capabilities=frozenset({"chat"} if told else {"embeddings"}))}}
    alias = ModelSettings(id="m", provider="one", upstream_model="embed", capabilities={"embeddings": told})
    embeddings = Embeddings(Catalog([one], (alias,), facts=known))
    if told:
        await embeddings.embed(CALLER, texts("a", model="m"))
    else:
        with pytest.raises(UnsupportedFeature):
            await embeddings.embed(CALLER, texts("a", model="m"))
    assert one.asked == told


async def test_a_refusal_is_no_failure_of_the_target() -> None:
    one = Failing("one", UnsupportedFeature("no tokens", field="inputs"))
    routing = RoutingTable(RoutingSettings(), {"one": one})
    with pytest.raises(UnsupportedFeature):
        await Embeddings(Catalog([one], (), routing=routing)).embed(CALLER, texts("a", model="one/embed"))
    (target,) = routing.targets
    assert (target.tally.failures, target.in_flight, target.tally.in_flight) == ({}, 0, 0)


async def test_draining_lets_requests_end_and_takes_no_new_ones() -> None:
    one = Waiting("one")
    embeddings = service(one)
    asked = asyncio.ensure_future(embeddings.embed(CALLER, texts("a", model="one/embed")))
    await one.asked.wait()
    draining = asyncio.ensure_future(embeddings.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await embeddings.embed(CALLER, texts("a", model="one/embed"))
    assert caught.value.reason == Reason.SHUTTING_DOWN
    assert not draining.done()
    one.goes_on.set()
    await draining
    assert (await asked).provider == "one"


async def test_draining_waits_no_longer_than_it_may() -> None:
    one = Waiting("one")
    embeddings = service(one)
    asked = asyncio.ensure_future(embeddings.embed(CALLER, texts("a", model="one/embed")))
    await one.asked.wait()
    await embeddings.drain(0.01)
    assert not asked.done()
    asked.cancel()
    await service(one).drain(30)


async def test_another_target_serves_what_the_first_cannot() -> None:
    one, two = Failing("one", ProviderError("down", reason=Reason.PROVIDER_UNREACHABLE)), ScriptedProvider("two")
    made = await service(one, two, models=both()).embed(CALLER, texts("a", model="both"))
    assert (made.model, made.provider, made.attempts) == ("both", "two", 2)


async def test_the_same_target_is_asked_again() -> None:
    one = Failing("one", ProviderError("broke"), ProviderError("broke again"))
    made = await service(one).embed(CALLER, texts("a", model="one/embed"))
    assert (made.attempts, one.asked) == (3, 3)


async def test_the_last_failure_is_the_answer() -> None:
    one = Failing("one", *[ProviderError(f"failure {number}") for number in range(9)])
    with pytest.raises(ProviderError, match="failure 2"):
        await service(one).embed(CALLER, texts("a", model="one/embed"))
    assert one.asked == 3


async def test_mistakes_of_the_client_are_not_tried_again() -> None:
    one, two = Failing("one", ProviderError("no", reason=Reason.PROVIDER_REJECTED, retryable=False)), Failing("two")
    with pytest.raises(ProviderError, match="no"):
        await service(one, two, models=both()).embed(CALLER, texts("a", model="both"))
    assert two.asked == 0


def consuming(tokens: int) -> ProviderError:
    """Returns a failure of an attempt that consumed something all the same."""
    error = ProviderError("broke")
    error.usage = Usage(input_tokens=tokens)
    return error


async def test_what_failed_attempts_consumed_counts() -> None:
    told: list[EmbedResponse] = []
    one = Failing("one", consuming(5), ProviderError("told nothing"))
    routing = RoutingTable(RoutingSettings(backoff=0.001, max_backoff=0.01), {"one": one})
    made = await Embeddings(Catalog([one], (), "", routing), on_end=told.append).embed(
        CALLER, texts("a b", model="one/embed")
    )
    assert (made.attempts, made.usage) == (3, Usage(input_tokens=7))
    assert told == [made]


async def test_what_was_consumed_for_nothing_counts() -> None:
    told: list[EmbedResponse] = []
    bad = Answering(EmbedResponse(embeddings=[Embedding()], usage=Usage(input_tokens=4)))
    routing = RoutingTable(RoutingSettings(backoff=0.001, max_backoff=0.01), {"one": bad})
    with pytest.raises(ProviderError):
        await Embeddings(Catalog([bad], (), "", routing), on_end=told.append).embed(
            CALLER, texts("a", model="one/embed")
        )
    assert told == [EmbedResponse(provider="one", usage=Usage(input_tokens=12))]


async def test_nothing_is_told_of_failures_that_consumed_nothing() -> None:
    told: list[EmbedResponse] = []
    one = Failing("one", ProviderError("no", retryable=False))
    with pytest.raises(ProviderError):
        await Embeddings(Catalog([one], ()), on_end=told.append).embed(CALLER, texts("a", model="one/embed"))
    assert told == []


BAD: list[EmbedResponse] = [
    EmbedResponse(),
    EmbedResponse(embeddings=[Embedding(values=[1])]),
    EmbedResponse(embeddings=[Embedding(values=[1]), Embedding(values=[1, 2])]),
    EmbedResponse(embeddings=[Embedding(), Embedding()]),
    EmbedResponse(embeddings=[Embedding(values=[1]), Embedding(values=[float("nan")])]),
    EmbedResponse(embeddings=[Embedding(values=[1]), Embedding(values=[float("inf")])]),
]


@pytest.mark.parametrize("response", BAD, ids=["none", "few", "uneven", "empty", "nan", "infinite"])
async def test_bad_vectors_are_the_providers_fault(response: EmbedResponse) -> None:
    with pytest.raises(ProviderError) as caught:
        await service(Answering(response)).embed(CALLER, texts("a", "b", model="one/embed"))
    assert caught.value.reason == Reason.PROVIDER_PROTOCOL


async def test_vectors_of_another_length_than_asked_for() -> None:
    made = EmbedResponse(embeddings=[Embedding(values=[1, 2, 3])])
    with pytest.raises(ProviderError) as caught:
        await service(Answering(made)).embed(CALLER, texts("a", model="one/embed", dimensions=2))
    assert caught.value.reason == Reason.PROVIDER_PROTOCOL


async def test_usage_that_nobody_reports_is_estimated() -> None:
    text = script(usage=False)
    made = await service(ScriptedProvider("one")).embed(CALLER, texts(text, model="one/embed"))
    assert made.usage == Usage(input_tokens=-(-len(text) // 4), estimated=True)


async def test_what_was_consumed_is_told() -> None:
    told: list[EmbedResponse] = []
    providers = (ScriptedProvider("one"),)
    embeddings = Embeddings(Catalog(providers, ()), on_end=told.append)
    made = await embeddings.embed(CALLER, texts("a"))
    assert told == [made]
