"""The providers under test, and what each of them can be made to do.

A new provider joins the suite with one more entry of `CASES`. Tests choose their cases by feature: those that only a
scripted answer can show (failures, exact texts, delays) ask for `SCRIPTED`; the others must hold for any model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import SecretStr

from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman_server.providers.anthropic_messages.dialect import DIALECT as ANTHROPIC
from dragoman_server.providers.base import GenerationRequest, Provider
from dragoman_server.providers.gemini.dialect import DIALECT as GEMINI
from dragoman_server.providers.litellm_library.provider import LiteLLMProvider
from dragoman_server.providers.llamacpp import LlamaCppProvider
from dragoman_server.providers.plugin.provider import PluginProvider
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import Dialect, RemoteProvider
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.providers.vendors import vendors
from dragoman_server.settings import ProviderSettings
from tests.support import generation, plugin_backend, upstream_anthropic, upstream_gemini, upstream_server
from tests.support.model import MODEL, MODEL_ID, fetch_model


class Feature(Enum):
    """What a provider can be made to show."""

    SCRIPTED = auto()
    """It plays the scenario of `Case.ask` exactly; without it, it answers with any text, the same every time."""
    REASONING = auto()
    REFUSAL = auto()
    TOOL_CALLS = auto()
    RAW_ARGUMENTS = auto()
    """Arguments of tool calls come as the model wrote them; without it, as JSON that means the same."""
    PROMPT_COUNT = auto()
    """It tells the tokens of the prompt before its answer is complete."""
    LOGPROBS = auto()
    JSON_OBJECT = auto()
    JSON_SCHEMA = auto()


@dataclass(frozen=True)
class Case:
    """A provider under test.

    Attributes:
        name: For the test ids.
        features: What it can show.
        open: Yields the provider, open; closes it afterwards.
        ask: Returns a conversation that makes it play a script (see `Script` of the scripted provider), or one that it
            answers with a few dozen tokens, always the same.
        model: The model to ask for.
    """

    name: str
    features: frozenset[Feature]
    open: Callable[[], AbstractAsyncContextManager[Provider]]
    ask: Callable[..., ChatSpec]
    model: str = "m"

    def request(
        self, *, incremental: bool = True, choice_index: int = 0, spec: ChatSpec | None = None, **script: Any
    ) -> GenerationRequest:
        """Returns a request that plays a script; `spec` takes the place of the conversation."""
        return GenerationRequest(
            self.ask(**script) if spec is None else spec, self.model, choice_index=choice_index, incremental=incremental
        )


def ask_scripted(**script: Any) -> ChatSpec:
    return generation.chat(upstream_server.script(**script) if script else "Tell me a short story, in ten words or so.")


@asynccontextmanager
async def _scripted() -> AsyncIterator[Provider]:
    provider = ScriptedProvider("scripted")
    await provider.open()
    yield provider
    await provider.close()


def openai_chat(answer: upstream_server.Answer, **settings: Any) -> Callable[[], AbstractAsyncContextManager[Provider]]:
    """Returns how to open the provider against a server that answers so."""

    @asynccontextmanager
    async def open_provider() -> AsyncIterator[Provider]:
        async with upstream_server.UpstreamServer(answer) as server:
            provider = make_provider(
                ProviderSettings(name="openai", dialect="openai_chat", base_url=server.url, **settings)
            )
            await provider.open()
            yield provider
            await provider.close()

    return open_provider


def remote(
    dialect: Dialect, vendor: str, answer: upstream_server.Answer
) -> Callable[[], AbstractAsyncContextManager[Provider]]:
    """Returns how to open the provider of a dialect against a server that answers so."""

    @asynccontextmanager
    async def open_provider() -> AsyncIterator[Provider]:
        async with upstream_server.UpstreamServer(answer) as server:
            settings = ProviderSettings(name=vendor, vendor=vendor, base_url=server.url)
            provider = RemoteProvider(settings, dialect, vendors()[vendor])
            await provider.open()
            yield provider
            await provider.close()

    return open_provider


@asynccontextmanager
async def _plugin() -> AsyncIterator[Provider]:
    async with plugin_backend.serving(plugin_backend.Backend()) as address:
        provider = PluginProvider(ProviderSettings(name="plugin", dialect="plugin", base_url=address))
        await provider.open()
        yield provider
        await provider.close()


def litellm(answer: upstream_server.Answer) -> Callable[[], AbstractAsyncContextManager[Provider]]:
    """Returns how to open the library's provider against a server that answers so."""

    @asynccontextmanager
    async def open_provider() -> AsyncIterator[Provider]:
        async with upstream_server.UpstreamServer(answer) as server:
            settings = ProviderSettings(
                name="litellm", dialect="litellm", base_url=server.url, api_key=SecretStr("key-of-the-tests")
            )
            provider = LiteLLMProvider(settings)
            await provider.open()
            yield provider
            await provider.close()

    return open_provider


def ask_llamacpp(**script: Any) -> ChatSpec:
    assert not script
    spec = generation.chat("Say hello.")
    spec.sampling.MergeFrom(Sampling(temperature=0, seed=1, max_output_tokens=300))
    return spec


@asynccontextmanager
async def _llamacpp() -> AsyncIterator[Provider]:
    provider = LlamaCppProvider("local", MODEL, await fetch_model(), context_tokens=512)
    await provider.open()
    yield provider
    await provider.close()


EVERYTHING = frozenset(Feature)
GEMINI_FEATURES = EVERYTHING - {Feature.REFUSAL, Feature.RAW_ARGUMENTS}
LITELLM_FEATURES = EVERYTHING - {Feature.REFUSAL, Feature.PROMPT_COUNT}
ANTHROPIC_FEATURES = frozenset(
    {Feature.SCRIPTED, Feature.REASONING, Feature.TOOL_CALLS, Feature.PROMPT_COUNT, Feature.JSON_SCHEMA}
)

CASES = [
    Case("scripted", EVERYTHING, _scripted, ask_scripted, "echo"),
    Case("plugin", EVERYTHING - {Feature.PROMPT_COUNT}, _plugin, ask_scripted),
    Case("openai_chat", EVERYTHING, openai_chat(upstream_server.chat()), ask_scripted),
    Case("openai_chat_in_pieces", EVERYTHING, openai_chat(upstream_server.chat(packet_size=61)), ask_scripted),
    Case("gemini", GEMINI_FEATURES, remote(GEMINI, "google", upstream_gemini.generate()), ask_scripted),
    Case("gemini_in_pieces", GEMINI_FEATURES, remote(GEMINI, "google", upstream_gemini.generate(61)), ask_scripted),
    Case(
        "anthropic",
        ANTHROPIC_FEATURES,
        remote(ANTHROPIC, "anthropic", upstream_anthropic.messages()),
        ask_scripted,
        upstream_anthropic.MODEL,
    ),
    Case(
        "anthropic_in_pieces",
        ANTHROPIC_FEATURES,
        remote(ANTHROPIC, "anthropic", upstream_anthropic.messages(61)),
        ask_scripted,
        upstream_anthropic.MODEL,
    ),
    Case(
        "llamacpp",  # not JSON_OBJECT: free to choose, so small a model rarely finds the end of its object
        frozenset({Feature.PROMPT_COUNT, Feature.LOGPROBS, Feature.JSON_SCHEMA}),
        _llamacpp,
        ask_llamacpp,
        MODEL_ID,
    ),
]

if find_spec("litellm") is not None:  # see tests/e2e/sdks/test_litellm_library.py
    CASES += [
        Case("litellm", LITELLM_FEATURES, litellm(upstream_server.chat()), ask_scripted, "openai/m"),
        Case(
            "litellm_in_pieces",
            LITELLM_FEATURES,
            litellm(upstream_server.chat(packet_size=61)),
            ask_scripted,
            "openai/m",
        ),
    ]


def for_cases(*features: Feature) -> pytest.MarkDecorator:
    """Runs a test for each case with these features; the test takes `case`."""
    chosen = [case for case in CASES if set(features) <= case.features]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])
