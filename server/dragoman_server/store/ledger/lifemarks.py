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

    def hold(self, owner_id: str) -> None:
        """Shows that an owner of this process lives, until `drop` or its end. Repeatable."""
        if fcntl is None or owner_id in self._held:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._folder / owner_id, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(descriptor):
                self._held[owner_id] = descriptor
            else:
                os.close(descriptor)
        except OSError as error:  # others will notice silence instead
            logger.warning("cannot show that this process lives", error=str(error))

    def drop(self, owner_id: str) -> None:
        """Takes back `hold`."""
        descriptor = self._held.pop(owner_id, None)
        if descriptor is not None:
            (self._folder / owner_id).unlink(missing_ok=True)
            os.close(descriptor)

    def take_dead(self) -> list[str]:
        """Returns the owners that have shown that they live, and do not any more; each is told once."""
        try:
            names = os.listdir(self._folder)
        except OSError:  # nobody has shown it here
            return []
        return [name for name in names if name not in self._held and self._is_dead(self._folder / name)]

    def _is_dead(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # it has left just now
            return False
        try:
            dead = _lock(descriptor)
            if dead:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            return dead
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Locks a file unless somebody else has; returns whether it did."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
