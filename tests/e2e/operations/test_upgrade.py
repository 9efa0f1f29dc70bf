"""This release opens the database of the one before: its keys work, and whoever ran it still does."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import grpc
import pytest

from dragoman.v1.account_service_pb2 import (
    CreateAccountRequest,
    GetCallerRequest,
    GetCallerResponse,
    KeyRole,
    ListKeysRequest,
)
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.store.migrations import HEAD
from tests.support.command import dragoman
from tests.support.server import KEY, running_server

BEFORE = Path(__file__).with_name("schema_0001.sql")
FIRST = "dgm_first-key-of-the-release-before-0123456789"
ADMIN = "dgm_admin-key-of-the-release-before-0123456789"
MEMBER = "dgm_member-key-of-the-release-before-012345678"
EXPIRED = "dgm_expired-key-of-the-release-before-01234567"
REVOKED = "dgm_revoked-key-of-the-release-before-01234567"
STATEMENT = "SELECT id, name, prefix, secret_hash, create_time, expire_time, revoke_time FROM api_keys ORDER BY id"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data folder of the release before."""
    folder = tmp_path / "data"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "dragoman.db")) as file:
        file.executescript(BEFORE.read_text())
    return folder


def rows(folder: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "dragoman.db")) as file:
        return file.execute(STATEMENT).fetchall()


def metadata(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def test_a_server_starts_on_it(old: Path) -> None:
    before = rows(old)
    # A bootstrap key that is known already is not made anew.
    with running_server(old.parent, environ={"DRAGOMAN_BOOTSTRAP_KEY": FIRST}) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            accounts, runs = AccountServiceStub(channel), RunServiceStub(channel)

            async def caller(secret: str) -> GetCallerResponse:
                answer = await accounts.GetCaller(GetCallerRequest(), metadata=metadata(secret), timeout=20)
                assert isinstance(answer, GetCallerResponse)
                return answer

            for secret in (FIRST, ADMIN):  # there was no other account: whoever managed its keys ran the server
                assert (await caller(secret)).key.role == KeyRole.KEY_ROLE_OPERATOR
            await accounts.CreateAccount(CreateAccountRequest(name="new"), metadata=metadata(ADMIN), timeout=20)
            member = await caller(MEMBER)
            assert member.account_id == "default"
            assert (member.key.role, member.key.name) == (KeyRole.KEY_ROLE_MEMBER, "laptop")
            question = ExecuteRunRequest()
            question.spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = "hello"
            answer = await runs.ExecuteRun(question, metadata=metadata(MEMBER), timeout=20)
            assert answer.run.state == Run.STATE_COMPLETED
            for secret in (EXPIRED, REVOKED, KEY):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await caller(secret)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            listed = await accounts.ListKeys(ListKeysRequest(), metadata=metadata(ADMIN), timeout=20)
            assert [key.name for key in listed.keys] == ["bootstrap key", "deploy 🚀", "laptop", "contractor", "lost"]
    assert rows(old) == before


def test_it_is_migrated_by_hand(old: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(old)}
    before = rows(old)
    check = dragoman("migrate", "--check", **data)
    assert (check.returncode, check.stdout) == (1, f"The schema is 0001; this program needs {HEAD}.\n")
    assert rows(old) == before
    done = dragoman("migrate", **data)
    assert (done.returncode, done.stdout) == (0, f"The schema was 0001 and is {HEAD} now.\n"), done.stderr
    for arguments in (["migrate", "--check"], ["migrate"]):
        again = dragoman(*arguments, **data)
        assert (again.returncode, again.stdout) == (0, f"The schema is {HEAD}, as it should be.\n")
    assert rows(old) == before
    assert "operator" in dragoman("keys", "list", **data).stdout


def test_a_check_makes_no_database(tmp_path: Path) -> None:
    check = dragoman("migrate", "--check", DRAGOMAN_DATA_DIR=str(tmp_path))
    assert (check.returncode, check.stdout) == (1, f"The schema is not there; this program needs {HEAD}.\n")
    assert list(tmp_path.iterdir()) == []
    assert dragoman("migrate", DRAGOMAN_DATA_DIR=str(tmp_path)).returncode == 0
    assert dragoman("migrate", "--check", DRAGOMAN_DATA_DIR=str(tmp_path)).returncode == 0


def test_a_newer_schema_is_neither_current_nor_touched(old: Path) -> None:
    with contextlib.closing(sqlite3.connect(old / "dragoman.db")) as file, file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
    check = dragoman("migrate", "--check", DRAGOMAN_DATA_DIR=str(old))
    assert (check.returncode, check.stdout) == (1, f"The schema is 9999; this program needs {HEAD}.\n")
    refused = dragoman("migrate", DRAGOMAN_DATA_DIR=str(old))
    assert refused.returncode == 1
    assert "install the newer version" in refused.stderr
