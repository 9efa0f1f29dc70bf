"""Loads a model into llama.cpp."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, InvalidRequest, NotFound, ProviderError, Unimplemented
from dragoman_server.providers import model_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_SOCKET_PATH = 100
_SILENT = -1
_ERRORS_ONLY = 1


def load_server(model: str, models_dir: Path, threads: int, setting: str, shape: Callable[[Any, Any], None]) -> Any:
    """Returns a server of the binding with the model. Takes its time: for worker threads.

    llama.cpp's binding keeps Python's lock while it builds the model, about half a second for the default one. The
    rest (reading the file, the first computation) leaves the loop free.

    Args:
        model: What `model_files.find` finds.
        models_dir: The folder of fetched models.
        threads: Threads that compute; 0 takes the number of cores less one.
        setting: The setting that names the model, for errors.
        shape: Is given the binding and the parameters, to set those of context and task.

    Raises:
        NotFound: If the model is not on this machine.
        InvalidRequest: If the file is not a model.
        ProviderError: If llama.cpp cannot load it.
        Unimplemented: If the extra `local` is not installed.
        DragomanError: If the file cannot be read.
    """
    xllamacpp = _import_xllamacpp()
    path = model_files.find(model, models_dir)
    if path is None:
        raise NotFound(
            f"the model {model!r} is not on this machine: run `dragoman models pull {model}`",
            reason=Reason.MODEL_NOT_FOUND,
        )
    try:
        if not model_files.is_gguf(path):
            raise InvalidRequest(f"{path} is not a GGUF model", field=setting)
        _read_through(path)
    except OSError as error:
        raise DragomanError(f"cannot read the model {path}: {error}") from error
    try:
        return _make_server(xllamacpp, path, threads, _SILENT, shape)
    except RuntimeError:
        try:  # once more, for the reason: the exception has none
            return _make_server(xllamacpp, path, threads, _ERRORS_ONLY, shape)
        except RuntimeError as error:
            raise ProviderError(
                f"llama.cpp cannot load {path}: damaged, of an unknown kind, or too large for this machine "
                "(it said why on standard error)",
                reason=Reason.PROVIDER_FAILED,
                retryable=False,
            ) from error


def _make_server(xllamacpp: Any, path: Path, threads: int, verbosity: int, shape: Callable[[Any, Any], None]) -> Any:
    params = xllamacpp.CommonParams()
    params.verbosity = verbosity
    params.model.path = str(path)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or _spare_cores()
    params.cache_ram_mib = 0  # slots keep their last prompt; copies of older ones would take gigabytes
    params.fit_params = False  # would load the model twice, to shrink what does not fit
    params.warmup = False  # done by the caller, without Python's lock
    shape(xllamacpp, params)
    # The binding insists on an HTTP server beside it. It gets a key that nobody knows, and a socket that is removed
    # at once: the only way to the model is through this process.
    params.api_keys = [secrets.token_hex(32)]
    params.n_threads_http = 1
    params.ui = params.endpoint_slots = False
    folder = tempfile.mkdtemp(prefix="dragoman-")
    socket = os.path.join(folder, "llamacpp.sock")
    if sys.platform != "win32" and len(socket) <= _MAX_SOCKET_PATH:
        params.hostnames = [socket]
    try:
        return xllamacpp.Server(params)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import_xllamacpp() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise Unimplemented(
            f"the embedded model needs the extra `local`: pip install 'dragoman[local]' ({error})"
        ) from error
    return xllamacpp


def _spare_cores() -> int:
    """Returns the number of cores that this process may use, less one for the server itself.

    llama.cpp's threads wait for each other by spinning: as soon as one of them has to share its core, all crawl.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores - 1)


def _read_through(path: Path) -> None:
    """Reads a file into the system's cache, so that llama.cpp, which keeps Python's lock, never waits for the disk."""
    buffer = bytearray(1024 * 1024)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
