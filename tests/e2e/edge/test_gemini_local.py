"""The embedded model, asked in the dialect of Gemini."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support import model
from tests.support.model import models_dir
from tests.support.server import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["models_dir"]  # a fixture

pytestmark = pytest.mark.timeout(300)

MODEL = f"local/{model.MODEL_ID}"


@pytest.fixture(scope="module")
def local(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(models_dir, target_is_directory=True)
    with running_server(folder, config="", environ={"DRAGOMAN_LOCAL__ENABLED": "true"}) as running:
        yield running


async def ask(server: Server, prompt: str, method: str = "generateContent", **config: Any) -> Any:
    body = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"temperature": 0, "maxOutputTokens": 12, **config},
    }
    url = f"{server.url}/v1beta/models/{MODEL}:{method}"
    async with (
        aiohttp.ClientSession(
            headers={"x-goog-api-key": server.key}, timeout=aiohttp.ClientTimeout(total=120)
        ) as client,
        client.post(url, json=body) as answer,
    ):
        found = await answer.json()
        assert answer.status == 200, found
        return found


def text_of(answers: list[Any]) -> str:
    return "".join(part["text"] for one in answers for part in one["candidates"][0]["content"]["parts"])


async def test_whole_and_stream_say_the_same(local: Server) -> None:
    whole = await ask(local, "Say hello.")
    stream = await ask(local, "Say hello.", "streamGenerateContent")
    assert text_of([whole]) == text_of(stream) != ""
    assert whole["modelVersion"] == MODEL
    counts = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
    assert all(whole["usageMetadata"][name] == stream[-1]["usageMetadata"][name] > 0 for name in counts)
    assert whole["candidates"][0]["finishReason"] in ("STOP", "MAX_TOKENS")


async def test_json_schema(local: Server) -> None:
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER", "minimum": 1, "maximum": 3}}, "required": ["n"]}
    found = await ask(
        local, "A number.", responseMimeType="application/json", responseSchema=schema, maxOutputTokens=40
    )
    assert json.loads(text_of([found]))["n"] in (1, 2, 3)


async def test_one_of_some_texts(local: Server) -> None:
    schema = {"type": "STRING", "enum": ["red", 'light "blue"']}
    found = await ask(local, "Which colour?", responseMimeType="text/x.enum", responseSchema=schema)
    assert text_of([found]) in ("red", 'light "blue"')
