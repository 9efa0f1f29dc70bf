"""Accounts, users and keys from the command line, on the database itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.command import dragoman


def said(*arguments: str, folder: Path) -> str:
    """Returns what a command that must succeed says."""
    done = dragoman(*arguments, DRAGOMAN_DATA_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_life_of_an_account(tmp_path: Path) -> None:
    assert said("accounts", "create", "--name", "Acme", "--id", "acme", folder=tmp_path) == "acme\n"
    secret = said("keys", "create", "--name", "k", "--account", "acme", "--scope", "runs", folder=tmp_path).strip()
    (_, row) = said("keys", "list", "--account", "acme", folder=tmp_path).splitlines()
    key_id = row.split()[0]
    said("keys", "update", key_id, "--account", "acme", "--disable", "--name", "off", folder=tmp_path)
    assert "disabled" in said("keys", "list", "--account", "acme", folder=tmp_path)
    said("accounts", "update", "acme", "--disable", folder=tmp_path)
    assert "disabled" in said("accounts", "list", folder=tmp_path)
    actions = [line.split()[2] for line in said("accounts", "audit", "acme", folder=tmp_path).splitlines()[1:]]
    assert actions == ["account.update", "key.update", "key.create", "account.create"]
    exported = said("accounts", "export", "acme", folder=tmp_path)
    rows = [json.loads(line) for line in exported.splitlines()]
    assert [row["row"]["name"] for row in rows if row["table"] in ("accounts", "api_keys")] == ["Acme", "off"]
    assert secret not in exported
    said("accounts", "delete", "acme", "--yes", folder=tmp_path)
    again = dragoman("accounts", "delete", "acme", "--yes", DRAGOMAN_DATA_DIR=str(tmp_path))
    assert (again.returncode, again.stderr) == (1, "error: account 'acme' does not exist\n")


def test_the_life_of_a_user(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dragoman_cli", "users", "create", "--email", "a@b.test", "--role", "admin"]
    command += ["--data-dir", str(tmp_path)]
    made = subprocess.run(command, input="correct horse\n", capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    user_id = made.stdout.strip()
    twice = subprocess.run(command, input="correct horse\n", capture_output=True, text=True, timeout=60)
    assert (twice.returncode, twice.stderr) == (1, "error: somebody has this email already\n")
    other = said("users", "create", "--email", "b@b.test", "--no-password", folder=tmp_path).strip()
    said("users", "update", other, "--role", "operator", "--name", "Bea", folder=tmp_path)
    rows = [line.split() for line in said("users", "list", folder=tmp_path).splitlines()[1:]]
    assert rows == [
        [user_id, "a@b.test", "admin", "enabled", rows[0][4]],
        [other, "b@b.test", "operator", "no", "password", rows[1][5], "Bea"],
    ]
    said("users", "delete", user_id, "--yes", folder=tmp_path)
    assert user_id not in said("users", "list", folder=tmp_path)


def test_erasing_asks_first(tmp_path: Path) -> None:
    said("accounts", "create", "--name", "Acme", "--id", "acme", folder=tmp_path)
    command = [sys.executable, "-m", "dragoman_cli", "accounts", "delete", "acme", "--data-dir", str(tmp_path)]
    declined = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=60)
    assert declined.returncode == 1
    assert "acme" in said("accounts", "list", folder=tmp_path)


def test_what_makes_no_sense_is_said(tmp_path: Path) -> None:
    for arguments, problem in (
        (("keys", "create", "--name", "x", "--role", "king"), "there is no role 'king'"),
        (("keys", "create", "--name", "x", "--account", "nobody"), "account 'nobody' does not exist"),
        (("keys", "create", "--name", "x", "--scope", "all"), "'all' does not exist"),
        (("users", "create", "--email", "x", "--no-password"), "email must be an address"),
        (("accounts", "create", "--name", "x", "--plan", "gold"), "plan 'gold' does not exist"),
        (("accounts", "export", "nobody"), "account 'nobody' does not exist"),
    ):
        done = dragoman(*arguments, DRAGOMAN_DATA_DIR=str(tmp_path))
        assert done.returncode == 1, arguments
        assert problem in done.stderr
