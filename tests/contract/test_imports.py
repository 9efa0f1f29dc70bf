"""What is loaded when: optional parts on first use, and the client without the server."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CLIENT_FORBIDDEN = {"aiohttp", "aiosqlite", "alembic", "dragoman_cli", "dragoman_edge", "dragoman_server", "httptools"}
CLIENT_FORBIDDEN |= {"orjson", "prometheus_client", "psycopg", "pydantic", "rich", "sqlalchemy", "typer", "xllamacpp"}

LIGHT_COMMANDS = {"aiohttp", "alembic", "grpc", "pydantic", "rich", "sqlalchemy", "xllamacpp"}


def loaded_by(code: str) -> set[str]:
    """Runs code in an interpreter of its own and returns the top-level modules that it loaded."""
    program = (
        f"import sys\n{code}\nimport json; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ["dragoman.streaming", "dragoman.unary", "dragoman_client"])
def test_contract_and_client_need_grpc_and_protobuf_only(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert "grpc" in loaded
    assert loaded & CLIENT_FORBIDDEN == set()


def test_the_command_line_loads_what_a_command_needs() -> None:
    assert loaded_by("import dragoman_cli.main") & LIGHT_COMMANDS == set()


def test_the_edge_loads_nothing_of_the_server() -> None:
    not_needed = {"aiohttp", "alembic", "dragoman_server", "sqlalchemy", "xllamacpp"}
    assert loaded_by("import dragoman_edge.app") & not_needed == set()


def test_an_edge_alone_needs_its_own_extra_only() -> None:
    of_the_server = {"aiosqlite", "alembic", "argon2", "jsonschema", "jwt", "sqlalchemy"}
    assert loaded_by("import dragoman_cli.serve, dragoman_edge.app") & of_the_server == set()


def test_the_core_loads_optional_parts_on_first_use() -> None:
    optional = {"aiohttp", "alembic", "argon2", "cryptography", "httptools", "jwt", "mako", "psycopg", "rich", "typer"}
    optional |= {"xllamacpp"}
    assert loaded_by("import dragoman_server.app") & optional == set()
