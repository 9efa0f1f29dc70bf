"""The Python template: `buf generate` gives users what the wheel brings."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.toolchains import ROOT, buf_generate, python_with, run

if TYPE_CHECKING:
    from pathlib import Path

GENERATOR = "grpcio-tools==1.81.1"
"""The generator whose stubs are committed (scripts/gen_protos.py)."""


@pytest.mark.timeout(600)
def test_generates_the_committed_stubs(tmp_path: Path) -> None:
    python = python_with(GENERATOR, "googleapis-common-protos")
    generated, committed = tmp_path / "generated", tmp_path / "committed"
    buf_generate("python", generated, path=[python.parent])
    services = _relative(generated, "*_pb2_grpc.py")
    assert services, "no service was generated"
    for path in services:
        assert (generated / path).read_text() == (ROOT / "proto" / path).read_text(), path
    # Messages are compared by their descriptors: buf also writes each field's JSON name into them.
    modules = [".".join(path.with_suffix("").parts) for path in _relative(generated, "*_pb2.py")]
    assert modules == [".".join(path.with_suffix("").parts) for path in _relative(ROOT / "proto", "*_pb2.py")]
    program = (
        "import importlib, json\n"
        f"print(json.dumps({{name: [[m.full_name, [[f.name, f.number, f.type] for f in m.fields]] for m in "
        f"importlib.import_module(name).DESCRIPTOR.message_types_by_name.values()] for name in {modules!r}}}))"
    )
    _copy_messages(committed)
    described = [
        run([python, "-c", program], cwd=tmp_path, environ={"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"})
        for folder in (generated, committed)
    ]
    assert described[0] == described[1]


def _relative(folder: Path, pattern: str) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob(pattern))


def _copy_messages(folder: Path) -> None:
    """Copies the committed message modules alone, as a template's output stands alone."""
    for path in _relative(ROOT / "proto", "*_pb2.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "proto" / path, folder / path)
