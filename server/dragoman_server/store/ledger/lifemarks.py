"""Which of the processes that use a SQLite file live: each locks a file of its own, for as long as it lives."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dragoman_server.telemetry.logs import get_logger

try:
    import fcntl
except ImportError:  # not on Windows: there, only silence tells
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = get_logger(__name__)


class Lifemarks:
    """The locks beside a database file, in the folder `FILE-owners`.

    Args:
        database: The file.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}-owners")
        self._held: dict[str, int] = {}  # descriptors by owner

    def hold(self, owner_id: str) -> int | None:
        """Shows that an owner of this process lives, until `drop` or its end. Repeatable.

        Returns:
            A descriptor of the file, which is the owner's to write; None if it cannot be shown.
        """
        if fcntl is None or owner_id in self._held:
            return self._held.get(owner_id)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / owner_id
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            _warn(error)
            return None
        try:
            if _lock(descriptor):
                self._held[owner_id] = descriptor
                return descriptor
        except OSError as error:
            path.unlink(missing_ok=True)
            _warn(error)
        os.close(descriptor)
        return None

    def drop(self, owner_id: str, *, keep_file: bool = False) -> None:
        """Takes back `hold`.

        Args:
            owner_id: The owner.
            keep_file: Whether what it wrote is left to whoever finds it dead.
        """
        descriptor = self._held.pop(owner_id, None)
        if descriptor is not None:
            if not keep_file:
                (self._folder / owner_id).unlink(missing_ok=True)
            os.close(descriptor)

    def close(self) -> None:
        """Lets others find dead whoever still lives here."""
        for owner_id in list(self._held):
            self.drop(owner_id, keep_file=True)

    @contextlib.contextmanager
    def dead(self) -> Iterator[tuple[dict[str, int], list[str]]]:
        """Gives the owners that have shown that they live, and do not any more, with descriptors of their files.

        Beside them, it gives those that live, or that somebody else is given at this moment. Within the context, nobody
        else is given the dead; after it, nothing is left of them. If it ends by an exception, they are given again.
        """
        found: dict[str, int] = {}
        alive = list(self._held)
        try:
            for name in self._names():
                if name in self._held:
                    continue
                try:
                    descriptor = os.open(self._folder / name, os.O_RDWR)
                except OSError:  # it has left just now, or is not ours to judge
                    continue
                try:
                    locked = _lock(descriptor)
                except OSError:  # there are no locks here
                    os.close(descriptor)
                    continue
                if locked:
                    found[name] = descriptor
                else:
                    os.close(descriptor)
                    alive.append(name)
            yield found, alive
            for name in found:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink(missing_ok=True)
        finally:
            for descriptor in found.values():
                os.close(descriptor)

    def _names(self) -> list[str]:
        if fcntl is None:
            return []
        try:
            return os.listdir(self._folder)
        except OSError:  # nobody has shown it here
            return []


def _warn(error: OSError) -> None:
    """Others will notice silence instead."""
    logger.warning("cannot show that this process lives", error=str(error))


def _lock(descriptor: int) -> bool:
    """Locks a file unless somebody else has; returns whether it did.

    Raises:
        OSError: If there are no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
