"""The default model, fetched once per machine, for tests that run it.

    from tests.support.model import models_dir  # a session fixture
    folder = await fetch_model()                # or within a test

`DRAGOMAN_TEST_MODELS` names the folder; by default it is `~/.cache/dragoman/models`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dragoman_server.errors import DragomanError
from dragoman_server.providers import model_files

MODEL = "smollm2"
MODEL_ID = model_files.KNOWN_MODELS[MODEL].model_id


async def fetch_model() -> Path:
    """Returns the folder that holds the model; skips the test if the model cannot be fetched."""
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    folder = Path(os.environ.get("DRAGOMAN_TEST_MODELS") or Path.home() / ".cache" / "dragoman" / "models")
    try:
        await model_files.pull(MODEL, folder)
    except DragomanError as error:
        pytest.skip(f"the model cannot be fetched: {error.message}")
    return folder


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The folder that holds the model."""
    return asyncio.run(fetch_model())
