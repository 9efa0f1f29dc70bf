"""The example programs of the contract's other languages, built once: the same command line in each."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.toolchains import ROOT, buf_generate, go_modules, missing, node_version, npm_install, run, tool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def go_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the Go examples: `chat-go` and `backend-go`."""
    folder = _copy("go", tmp_path_factory)
    go = go_modules(ROOT / "clients" / "go")
    buf_generate("go", folder)
    run([go, "vet", "./..."], cwd=folder, timeout=300)
    for program in ("chat", "backend"):
        run([go, "build", "-o", folder / f"{program}-go", f"./{program}"], cwd=folder, timeout=300)
    return folder


@pytest.fixture(scope="session", params=["go", "typescript"])
def chat_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the example of a language."""
    if request.param == "go":
        return [str(request.getfixturevalue("go_programs") / "chat-go")]
    return _build_typescript(_copy("typescript", tmp_path_factory))


def _copy(language: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(language) / "client"
    shutil.copytree(ROOT / "clients" / language, folder, ignore=shutil.ignore_patterns("gen", "dist", "node_modules"))
    return folder


def _build_typescript(folder: Path) -> list[str]:
    node = tool("node")
    if node_version() < (20,):
        missing(f"Node.js 20 is required, {node_version()} is installed")
    modules = npm_install(folder)
    (folder / "node_modules").symlink_to(modules)
    buf_generate("typescript", folder, path=[modules / ".bin"])
    run([modules / ".bin" / "tsc"], cwd=folder, timeout=300)
    return [node, str(folder / "dist" / "src" / "chat.js")]
