"""Our own source files: what is in the work tree, less what is generated or not ours."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOREIGN = {"node_modules", "third_party", "__pycache__", "dist", "build", "results"}
_GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@cache
def source_files(*suffixes: str) -> tuple[Path, ...]:
    """Returns the files with one of the suffixes, sorted."""
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in _FOREIGN and not name.startswith(".")]
        found += [Path(folder, name) for name in files if name.endswith(suffixes) and not name.endswith(_GENERATED)]
    return tuple(sorted(found))
