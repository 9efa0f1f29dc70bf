"""Every client dialect with every backend: the same question gets the same answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from dragoman_server.settings import ModelSettings, ProviderSettings
from tests.e2e.matrix import outward_anthropic, outward_gemini, outward_openai
from tests.e2e.matrix.features import CLIENT_LIMITS, FEATURES, LIMITS, TROUBLES, Absent, Emulated, Refused
from tests.e2e.matrix.inward import FIELDS, INWARD, Client, clients_of
from tests.e2e.matrix.outward_http import KEY, RETRY_AFTER, HttpBackend
from tests.e2e.matrix.outward_plugin import PluginBackend, scripted
from tests.e2e.matrix.words import Answer, Ask, Call, Failed, Said, Seen, Served, seen_of, whole
from tests.support import plugin_backend
from tests.support.core import running_core
from tests.support.upstream_server import without_urls

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = {
    "openai_chat": outward_openai.WORDS,
    "anthropic_messages": outward_anthropic.WORDS,
    "gemini": outward_gemini.WORDS,
}
BACKENDS = (*WORDS, "plugin", "scripted")
UPSTREAM_MODELS = {name: words.model for name, words in WORDS.items()} | {"plugin": "m", "scripted": "echo"}


@dataclass
class House:
    """A server before all backends, and a client of each dialect."""

    clients: dict[str, Client]
    backends: dict[str, HttpBackend | PluginBackend]

    async def ask(self, client: str, backend: str, ask: Ask, said: Said, *, stream: bool, model: str = "") -> Answer:
        """Asks, and makes the backend say something."""
        if backend in self.backends:
            self.backends[backend].said = said
        else:
            ask = scripted(ask, said)
        return await self.clients[client].ask(model or backend, ask, stream=stream)


@asynccontextmanager
async def built_house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        backends: dict[str, HttpBackend | PluginBackend] = {}
        providers = [ProviderSettings(name="p-scripted", dialect="scripted")]
        for name, words in WORDS.items():
            backends[name] = backend = HttpBackend(words)
            server = await stack.enter_async_context(backend.server())
            address = {"base_url": server.url, "api_key": SecretStr(KEY)}
            providers.append(
                ProviderSettings.model_validate({"name": f"p-{name}", "dialect": words.dialect, **address})
            )
        backends["plugin"] = plugin = PluginBackend()
        plugin_address = await stack.enter_async_context(plugin_backend.serving(plugin))
        providers.append(ProviderSettings(name="p-plugin", dialect="plugin", base_url=plugin_address))
        models = [
            ModelSettings(id=name, provider=f"p-{name}", upstream_model=UPSTREAM_MODELS[name]) for name in BACKENDS
        ]
        models += [
            model.model_copy(update={"id": f"{model.id}-lenient", "unsupported_params": "report"}) for model in models
        ]
        core = await stack.enter_async_context(running_core(providers=tuple(providers), models=tuple(models)))
        clients = await stack.enter_async_context(clients_of(core))
        yield House(clients, backends)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with built_house() as house:
        yield house


def pairs() -> list[Any]:
    return [pytest.param(client, backend, id=f"{client}-{backend}") for client in INWARD for backend in BACKENDS]


def cases() -> list[Any]:
    """Returns every feature that a pair can be asked for."""
    return [
        pytest.param(client, backend, feature, id=f"{client}-{backend}-{feature}")
        for client in INWARD
        for backend in BACKENDS
        for feature in FEATURES
        if not isinstance(LIMITS.get((feature, backend)), Absent) and (feature, client) not in CLIENT_LIMITS
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("client", "backend", "feature"), cases())
async def test_feature(house: House, client: str, backend: str, feature: str, stream: bool) -> None:
    ask, said = FEATURES[feature].ask, FEATURES[feature].said
    limit = LIMITS.get((feature, backend))
    if isinstance(limit, Refused):
        with pytest.raises(Failed) as failure:
            await house.ask(client, backend, ask, said, stream=stream)
        assert failure.value.reason == "UNSUPPORTED_FEATURE"
        field = FIELDS[client].get(limit.field, limit.field)
        assert failure.value.field.removeprefix("spec.chat.") == field
        return
    answer = await house.ask(client, backend, ask, said, stream=stream)
    emulated = (FIELDS[client].get(limit.path, limit.path),) if isinstance(limit, Emulated) else ()
    finish = house.clients[client].hides.get(said.finish, said.finish)
    assert answer == Answer(
        "".join(said.text),
        answer.pieces,
        "".join(said.thoughts),
        marked(said.signature, backend),
        answer.calls,
        finish,
        said.tokens,
        len(said.text) if said.logprobs else 0,
        Served(UPSTREAM_MODELS[backend], f"p-{backend}", 1, emulated),
    )
    said_calls = [replace(call, signature=marked(call.signature, backend)) for call in said.calls]
    assert list(map(whole, answer.calls)) == list(map(whole, said_calls))
    if stream and not emulated:
        assert answer.pieces == said.text
        if "gemini" not in (client, backend):  # they tell calls in one piece
            assert [fed(call) for call in answer.calls] == [call.pieces for call in said.calls]
    if backend in house.backends and not emulated:
        assert comparable(house.backends[backend].seen, ask) == expected(ask, client, backend)


def marked(signature: bytes, backend: str) -> bytes:
    """Returns a signature as clients get it: it says whose it is."""
    return f"~p-{backend}~".encode() + signature if signature else b""


def fed(call: Call) -> tuple[str, ...]:
    return tuple(filter(None, call.pieces))


def expected(ask: Ask, client: str, backend: str) -> Seen:
    """Returns what the backend is to see. The names of tools stand at their calls."""
    seen = seen_of(ask)
    if seen.tool_choice and (client, backend) == ("gemini", "anthropic_messages"):
        # To call one of a list is to call any of that list.
        seen = replace(seen, tools=tuple(tool for tool in seen.tools if tool.name == seen.tool_choice))
    turns = []
    for turn in seen.turns:
        results = tuple(replace(result, name="") for result in turn.results)
        turns.append(replace(turn, results=results))
    return replace(seen, turns=tuple(turns))


def comparable(seen: Seen, ask: Ask) -> Seen:
    """Returns what was seen without the limit that some APIs want even where nobody asked for one."""
    return seen if ask.max_tokens is not None else replace(seen, max_tokens=None)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("client", "backend"), pairs())
@pytest.mark.parametrize("trouble", ["400", "401", "500"])
async def test_failure_before_the_answer(house: House, client: str, backend: str, trouble: str, stream: bool) -> None:
    await assert_refused(house, client, backend, trouble, stream=stream)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("client", "backend"), pairs())
async def test_the_wait_that_a_server_asks_for(client: str, backend: str, stream: bool) -> None:
    async with built_house() as house:  # the server leaves such a target alone for that time
        found = await assert_refused(house, client, backend, "429", stream=stream)
    assert found.retry_after == RETRY_AFTER


async def assert_refused(house: House, client: str, backend: str, trouble: str, *, stream: bool) -> Failed:
    with pytest.raises(Failed) as failure:
        await house.ask(client, backend, FEATURES["text"].ask, Said(("never",), trouble=trouble), stream=stream)
    found = failure.value
    assert found.reason == TROUBLES[trouble][1]
    assert found.status != 200
    assert found.said == ""
    assert_discreet(found)
    return found


@pytest.mark.parametrize(("client", "backend"), pairs())
@pytest.mark.parametrize("trouble", ["error frame", "cut"])
async def test_failure_within_a_stream(house: House, client: str, backend: str, trouble: str) -> None:
    with pytest.raises(Failed) as failure:
        await house.ask(client, backend, FEATURES["text"].ask, Said(("He", "llo"), trouble=trouble), stream=True)
    found = failure.value
    assert found.reason == TROUBLES[trouble][1]
    assert found.said == "Hello"
    assert_discreet(found)


def assert_discreet(found: Failed) -> None:
    """Checks that nothing tells of the server's key or address."""
    assert KEY not in found.raw
    assert without_urls(found.raw)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("client", INWARD)
async def test_what_is_left_out_is_told(house: House, client: str, stream: bool) -> None:
    ask = replace(FEATURES["text"].ask, seed=7, logprobs=True)
    said = FEATURES["text"].said
    model = "anthropic_messages-lenient"
    answer = await house.ask(client, "anthropic_messages", ask, said, stream=stream, model=model)
    assert answer.text == "".join(said.text)
    paths = ("sampling.seed", "sampling.logprobs")
    assert set(answer.served.dropped) == {FIELDS[client].get(path, path) for path in paths}
    assert answer.served.emulated == ()
    seen = house.backends["anthropic_messages"].seen
    assert (seen.seed, seen.logprobs) == (None, False)


@pytest.mark.parametrize("client", INWARD)
async def test_a_model_that_nobody_knows(house: House, client: str) -> None:
    with pytest.raises(Failed) as failure:
        await house.clients[client].ask("no-such-model", FEATURES["text"].ask, stream=False)
    assert failure.value.reason == "MODEL_NOT_FOUND"
