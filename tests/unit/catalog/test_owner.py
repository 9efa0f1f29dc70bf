from __future__ import annotations

import pytest

from dragoman_server.catalog.service import Catalog
from dragoman_server.providers.scripted import ScriptedProvider
from dragoman_server.settings import ModelSettings


@pytest.mark.parametrize(
    ("model_id", "upstream_model", "owner", "told"),
    [
        ("deepseek/deepseek-chat-v3", "x", "", "deepseek"),
        ("a/b/c", "x", "", "a"),
        ("a/b/c", "x", "us", "us"),
        ("fast", "x", "", "demo"),
        ("fast", "echo", "", "dragoman"),
    ],
)
def test_who_made_a_model(model_id: str, upstream_model: str, owner: str, told: str) -> None:
    alias = ModelSettings(id=model_id, provider="demo", upstream_model=upstream_model, owner=owner)
    assert Catalog([ScriptedProvider("demo")], [alias]).get(model_id).owner == told
