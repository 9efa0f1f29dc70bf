"""What is documented exists, and what exists is documented."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from dragoman.reasons import Reason
from dragoman_edge.dialects.openai.errors import TABLE
from dragoman_server import configuration
from tests.support.sources import ROOT, source_files

PAGE = ROOT / "docs" / "configuration.md"
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#([^)\s]+))?\)")


def test_the_generated_parts_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gen_docs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_every_setting_and_variable_is_documented() -> None:
    text = PAGE.read_text()
    short = {path: name for name, path in configuration.SHORT_NAMES.items()}
    for name, path in configuration.variables().items():
        assert f"`{short.get(path, name)}`" in text or f"`[[{path}]]`" in text, path
    for name in configuration.OTHER_VARIABLES:
        assert f"`{name}`" in text


def test_the_example_configuration_is_right(tmp_path_factory: pytest.TempPathFactory) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    file = tmp_path_factory.mktemp("example") / "dragoman.toml"
    file.write_text(example[1])
    settings = configuration.load(file, {"DATABASE_URL": "postgresql://localhost/x", "REF_KEY": "k"})
    assert settings.models[0].provider == "ref"


def test_every_reason_has_an_answer_of_its_own() -> None:
    assert set(TABLE) == set(Reason)
    text = (ROOT / "docs" / "rest.md").read_text()
    for reason in Reason:
        assert f"`{reason}`" in text


def test_links_between_pages_lead_somewhere() -> None:
    pages = source_files(".md")
    assert len(pages) > 3
    for page in pages:
        for target, _ in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_every_task_that_the_documents_name_exists() -> None:
    tasks = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in source_files(".md"):
        for task in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert task in tasks, f"{page.relative_to(ROOT)}: make {task}"
