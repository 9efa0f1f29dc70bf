"""Files and functions stay small: the tail, not the median, tells good code from bad."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.support.sources import ROOT, source_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 80
LARGE_FILE_LINES = 500
MAX_SHARE_IN_LARGE_FILES = 0.15
MAX_P95_FUNCTION_LINES = 50

CODE = (".py", ".proto", ".go", ".ts", ".mjs", ".js")


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())


def functions(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_no_file_is_too_long() -> None:
    sizes = {str(file.relative_to(ROOT)): lines_of(file) for file in source_files(*CODE)}
    assert len(sizes) > 50
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_few_lines_live_in_large_files() -> None:
    sizes = [lines_of(file) for file in source_files(*CODE)]
    share = sum(size for size in sizes if size > LARGE_FILE_LINES) / sum(sizes)
    assert share <= MAX_SHARE_IN_LARGE_FILES


def test_no_function_is_too_long() -> None:
    sizes = [function for file in source_files(".py") for function in functions(file)]
    assert [function for function in sizes if function[1] > MAX_FUNCTION_LINES] == []


def test_functions_are_short_as_a_rule() -> None:
    sizes = sorted(size for file in source_files(".py") for _, size in functions(file))
    assert sizes[int(len(sizes) * 0.95)] <= MAX_P95_FUNCTION_LINES
