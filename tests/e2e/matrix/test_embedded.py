"""Every client dialect with the embedded model, a real one: what it says is its own, that it says it is not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from dragoman_server.settings import LocalSettings, ServerSettings
from tests.e2e.matrix.features import CLIENT_LIMITS, FEATURES, LIMITS, Absent, Refused
from tests.e2e.matrix.inward import FIELDS, INWARD, Client, clients_of
from tests.e2e.matrix.words import Answer, Failed, Served
from tests.support.core import running_core
from tests.support.model import MODEL_ID, fetch_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

MODEL = f"local/{MODEL_ID}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Client]]:
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "models").symlink_to(await fetch_model(), target_is_directory=True)
    server = ServerSettings(grpc_port=0, data_dir=folder)
    async with running_core(server=server, local=LocalSettings(embeddings="off")) as core, clients_of(core) as found:
        yield found


def cases() -> list[Any]:
    return [
        pytest.param(client, feature, id=f"{client}-{feature}")
        for client in INWARD
        for feature in FEATURES
        if not isinstance(LIMITS.get((feature, "local")), Absent) and (feature, client) not in CLIENT_LIMITS
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("client", "feature"), cases())
async def test_feature(clients: dict[str, Client], client: str, feature: str, stream: bool) -> None:
    ask = FEATURES[feature].ask
    limit = LIMITS.get((feature, "local"))
    if isinstance(limit, Refused):
        with pytest.raises(Failed) as failure:
            await clients[client].ask(MODEL, ask, stream=stream)
        assert failure.value.reason == "UNSUPPORTED_FEATURE"
        assert failure.value.field.removeprefix("spec.chat.") == FIELDS[client].get(limit.field, limit.field)
        return
    bounded = replace(ask, max_tokens=ask.max_tokens or 40, temperature=ask.temperature or 0.0)
    answer = await clients[client].ask(MODEL, bounded, stream=stream)
    assert answer.served == Served(MODEL_ID, "local", 1)
    assert answer.tokens is not None
    assert answer.tokens.read > 0
    assert 0 < answer.tokens.written <= (bounded.max_tokens or 0)
    assert answer.text
    if stream and answer.tokens.written > 2:
        assert len(answer.pieces) > 1
    CHECKS.get(feature, _nothing)(answer)


def _nothing(answer: Answer) -> None: ...


def _schema(answer: Answer) -> None:
    assert answer.finish == "stop"
    assert json.loads(answer.text).keys() == {"city"}


def _json(answer: Answer) -> None:
    assert answer.text.lstrip().startswith("{")


def _length(answer: Answer) -> None:
    assert answer.finish == "length"
    assert answer.tokens is not None
    assert answer.tokens.written == 2


def _logprobs(answer: Answer) -> None:
    assert answer.logprobs > 1


CHECKS = {"json_schema": _schema, "json_object": _json, "length": _length, "logprobs": _logprobs}
"""What else must hold, whatever the model says."""
