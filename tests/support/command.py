"""Runs the `dragoman` command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DRAGOMAN = str(Path(sys.executable).with_name("dragoman"))


def environment(**variables: str) -> dict[str, str]:
    """Returns this process's environment with these, and only these, of our own variables."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DRAGOMAN_")}
    return ours | {"DRAGOMAN_LOCAL__ENABLED": "false", "COLUMNS": "200"} | variables


def dragoman(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [DRAGOMAN, *arguments], input=stdin, env=environment(**variables), capture_output=True, text=True, timeout=60
    )
