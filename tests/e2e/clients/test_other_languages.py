"""Generated stubs of other languages talk to the server: the same checks for each."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.toolchains import RUN_SECONDS

if TYPE_CHECKING:
    from tests.support.server import Server

pytestmark = pytest.mark.timeout(900)  # the first test of a language fetches and builds


def chat(program: list[str], server: Server, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, "--target", server.target, *arguments],
        env=os.environ | {"DRAGOMAN_API_KEY": key or server.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def script(**directions: object) -> str:
    return f"SCRIPT {json.dumps(directions)}"


def test_streams_an_answer(chat_program: list[str], server: Server) -> None:
    done = chat(chat_program, server, script(text=["Grüß", " dich", ", 世界\n", "🙂"], delay=0.01))
    assert (done.returncode, done.stdout) == (0, "Grüß dich, 世界\n🙂"), done.stderr
    assert "completed" in done.stderr


def test_takes_batches_and_large_answers(chat_program: list[str], server: Server) -> None:
    done = chat(chat_program, server, script(text=["0123456789" * 100], repeat=2000, batch=50))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0123456789" * 100 * 2000


def test_names_a_model(chat_program: list[str], server: Server) -> None:
    done = chat(chat_program, server, "--model", "scripted/echo", "hello there")
    assert (done.returncode, done.stdout) == (0, "You said: hello there"), done.stderr


def test_cancels_a_run(chat_program: list[str], server: Server) -> None:
    done = chat(chat_program, server, "--cancel-after", "2", script(text=["on "], repeat=100_000, delay=0.05))
    assert done.returncode == 1
    assert done.stdout.startswith("on on ")
    assert "cancelled" in done.stderr
    assert "REQUESTED" in done.stderr


def test_reads_a_failed_run(chat_program: list[str], server: Server) -> None:
    failure = {"reason": "PROVIDER_RATE_LIMITED", "message": "slow down", "after": 1}
    done = chat(chat_program, server, script(text=["a", "b"], fail_after=failure))
    assert done.returncode == 1
    assert done.stdout == "a"
    assert "failed: PROVIDER_RATE_LIMITED: slow down" in done.stderr


def test_reads_the_details_of_a_refused_call(chat_program: list[str], server: Server) -> None:
    wrong_key = chat(chat_program, server, "hello", key="dgm_nobody")
    assert wrong_key.returncode == 1
    assert "reason: API_KEY_INVALID" in wrong_key.stderr

    unknown_model = chat(chat_program, server, "--model", "no/such", "hello")
    assert unknown_model.returncode == 1
    assert "reason: MODEL_NOT_FOUND" in unknown_model.stderr
    assert "field: spec.chat.model" in unknown_model.stderr
