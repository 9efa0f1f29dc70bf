"""The providers under test, and what each of them can be made to do.

A new provider joins the suite with one more entry of `CASES`. Tests choose their cases by feature: those that only a
scripted answer can show (failures, exact texts, delays) ask for `SCRIPTED`; the others must hold for any model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pytest

from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman_server.providers.base import GenerationRequest, Provider
from dragoman_server.providers.llamacpp import LlamaCppProvider
from dragoman_server.providers.openai_chat.provider import OpenAIChatProvider
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.settings import ProviderSettings
from tests.support import generation, upstream_server
from tests.support.model import MODEL, MODEL_ID, fetch_model


class Feature(Enum):
    """What a provider can be made to show."""

    SCRIPTED = auto()
    """It plays the scenario of `Case.ask` exactly; without it, it answers with any text, the same every time."""
    REASONING = auto()
    REFUSAL = auto()
    TOOL_CALLS = auto()
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
            provider = OpenAIChatProvider(
                ProviderSettings(name="openai", dialect="openai_chat", base_url=server.url, **settings)
            )
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

CASES = [
    Case("scripted", EVERYTHING, _scripted, ask_scripted, "echo"),
    Case("openai_chat", EVERYTHING, openai_chat(upstream_server.chat()), ask_scripted),
    Case("openai_chat_in_pieces", EVERYTHING, openai_chat(upstream_server.chat(packet_size=61)), ask_scripted),
    Case(
        "llamacpp",  # not JSON_OBJECT: free to choose, so small a model rarely finds the end of its object
        frozenset({Feature.LOGPROBS, Feature.JSON_SCHEMA}),
        _llamacpp,
        ask_llamacpp,
        MODEL_ID,
    ),
]


def for_cases(*features: Feature) -> pytest.MarkDecorator:
    """Runs a test for each case with these features; the test takes `case`."""
    chosen = [case for case in CASES if set(features) <= case.features]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])
