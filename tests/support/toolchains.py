"""Tools and packages of other languages, fetched once and kept in the user's cache folder.

Whoever cannot have one (no such tool on the machine, no network) skips its tests with the reason. With
`DRAGOMAN_REQUIRE_TOOLCHAINS=1` these tests fail instead: the setting for CI.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
FETCH_SECONDS = 300.0
"""Bound of one installation."""
RUN_SECONDS = 90.0
"""Bound of one generation, compilation or program."""


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where all toolchains are required."""
    if os.environ.get("DRAGOMAN_REQUIRE_TOOLCHAINS") == "1":
        pytest.fail(f"required: {reason}")
    pytest.skip(reason)


def cache_dir() -> Path:
    """Returns the folder that keeps what was fetched."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "dragoman", "toolchains")


def tool(name: str) -> str:
    """Returns the path of a program of the machine."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    timeout: float = RUN_SECONDS,
) -> str:
    """Runs a program that must succeed and returns its standard output; a failure shows all it wrote."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{command} was not done after {timeout} s: {error.stdout!r} {error.stderr!r}") from None
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def buf_generate(language: str, out: Path, *, path: Sequence[Path] = ()) -> None:
    """Generates the stubs of a language below `out`; `path` holds the folders of its plugins."""
    buf = Path(sys.executable).with_name("buf")
    if not buf.exists():
        missing("buf is not installed (the group `check`)")
    folders = os.pathsep.join([*map(str, path), os.environ["PATH"]])
    run(
        [buf, "generate", "--template", f"buf.gen.{language}.yaml", "-o", out],
        environ={"PATH": folders},
        timeout=FETCH_SECONDS,
    )


def python_with(*requirements: str) -> Path:
    """Returns the interpreter of an environment that has exactly these packages, and what they need."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = "-".join(requirements).replace("==", "-")
    if len(name) > 100:  # no folder may be named like that
        name = hashlib.sha256(name.encode()).hexdigest()[:12]
    with _kept(f"python{version}-{name}") as (folder, ready):
        python = folder / "bin" / "python"
        if not ready:
            run([sys.executable, "-m", "venv", "--clear", folder], timeout=FETCH_SECONDS)
            _fetch([python, "-m", "pip", "install", "--quiet", *requirements], folder)
    return python


def node_version() -> tuple[int, ...]:
    """Returns the version of the machine's Node.js."""
    return tuple(int(part) for part in run([tool("node"), "--version"]).strip().removeprefix("v").split("."))


def npm_install(package: Path) -> Path:
    """Returns the `node_modules` of a package, installed beside a copy of its `package.json`."""
    manifest = package / "package.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
    with _kept(f"node{node_version()[0]}-{digest}") as (folder, ready):
        if not ready:
            shutil.copy(manifest, folder)
            _fetch([tool("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
    return folder / "node_modules"


def npm_package(name: str, version: str) -> Path:
    """Returns a `node_modules` that holds one package in one version."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "package.json").write_text(f'{{"private": true, "dependencies": {{"{name}": "{version}"}}}}\n')
        return npm_install(Path(folder))


def go_modules(module: Path) -> str:
    """Fetches what a Go module needs into Go's own cache, and returns the path of Go."""
    go = tool("go")
    wanted = next(line.split()[1] for line in (module / "go.mod").read_text().splitlines() if line.startswith("go "))
    have = run([go, "env", "GOVERSION"], cwd=cache_root()).strip().removeprefix("go")
    if _numbers(have) < _numbers(wanted):
        missing(f"Go {wanted} is required, {have} is installed")
    _fetch([go, "mod", "download"], module)
    return go


def cache_root() -> Path:
    """Returns the cache folder, made if it is not there."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split()[0].split(".") if part.isdigit())


def _fetch(command: Sequence[str | Path], cwd: Path) -> None:
    try:
        run(command, cwd=cwd, timeout=FETCH_SECONDS)
    except AssertionError as error:
        missing(f"cannot be fetched: {error}")


@contextmanager
def _kept(name: str) -> Iterator[tuple[Path, bool]]:
    """Yields a folder of the cache, and whether it is complete; one process at a time fills it."""
    root = cache_root()
    folder, marker = root / name, root / f"{name}.complete"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = marker.exists() and folder.exists()
        if not ready:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield folder, ready
        marker.touch()
