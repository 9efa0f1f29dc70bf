"""Fetches and lists the files of the embedded model."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragoman_cli.output import CommandError, note, say
from dragoman_cli.settings import load_settings
from dragoman_server.errors import DragomanError
from dragoman_server.providers import model_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dragoman_server.providers.model_files import PullProgress
    from dragoman_server.settings import Settings

OFF = "or set local.enabled = false (DRAGOMAN_LOCAL__ENABLED=false) to run without it"


def folder(settings: Settings) -> Path:
    """Returns the folder of the models."""
    return settings.server.data_dir / "models"


def ensure(settings: Settings) -> None:
    """Fetches the embedded models unless they are there.

    Raises:
        CommandError: If it cannot be had, with what to do.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise CommandError(f"the embedded model needs an extra: pip install 'dragoman[local]'; {OFF}")
    try:
        for name in needed(settings):
            if model_files.find(name, folder(settings)) is None:
                note(f"The model {name} is not here yet; it is fetched once.")
                _pull(name, folder(settings))
    except DragomanError as error:
        raise CommandError(f"{error.message}; {OFF}") from error


def needed(settings: Settings) -> tuple[str, ...]:
    """Returns the models that the embedded provider is configured to load: that of chats, and that of vectors."""
    local = settings.local
    if local.embeddings == "off" or not local.embedding_model:
        return (local.model,)
    return (local.model, local.embedding_model)


def pull(config: Path | None, flags: Mapping[str, object], name: str) -> None:
    """Fetches a model and prints its file.

    Raises:
        CommandError: If it cannot be had.
    """
    try:
        say(str(_pull(name, folder(load_settings(config, flags)))))
    except DragomanError as error:
        raise CommandError(error.message) from error


def list_all(config: Path | None, flags: Mapping[str, object]) -> None:
    """Prints the known models and the files in the models folder."""
    here = folder(load_settings(config, flags))
    known = {here / model.filename: model for model in model_files.KNOWN_MODELS.values()}
    for file, model in known.items():
        state = str(file) if file.is_file() else f"not fetched: dragoman models pull {model.name}"
        say(f"{model.name}  {model.size_bytes / 1e6:.0f} MB  {model.licence}  {state}")
    for file in sorted(here.rglob("*.gguf")):
        if file not in known and not any(part.startswith(".") for part in file.relative_to(here).parts):
            say(f"{file.stem.lower()}  {file.stat().st_size / 1e6:.0f} MB  {file}")


def _pull(name: str, models_dir: Path) -> Path:
    with _progress(name) as progress:
        return asyncio.run(model_files.pull(name, models_dir, progress))


@contextmanager
def _progress(name: str) -> Iterator[Callable[[PullProgress], None]]:
    """Shows how far a pull is: a bar on a terminal, a line for each stage elsewhere."""
    if not sys.stderr.isatty():
        stages: set[str] = set()

        def tell(progress: PullProgress) -> None:
            if progress.stage not in stages:
                stages.add(progress.stage)
                note(f"{name}: {progress.stage}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {
            stage: bars.add_task(f"{name}: {stage}", total=None, visible=False) for stage in ("download", "unpack")
        }

        def move(progress: PullProgress) -> None:
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total or None, visible=True)

        yield move
