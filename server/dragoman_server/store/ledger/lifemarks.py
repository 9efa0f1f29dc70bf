"""Which of the processes that use a SQLite file live: each locks a file of its own, for as long as it lives."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from dragoman_server.telemetry.logs import get_logger

try:
    import fcntl
except ImportError:  # not on Windows: there, only silence tells
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = get_logger(__name__)

_NAME = re.compile(r"\w{1,64}")


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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others will notice silence instead
            logger.warning("cannot show that this process lives", error=str(error))
        else:
            self._held[owner_id] = descriptor

    def drop(self, owner_id: str) -> None:
        """Takes back `hold`."""
        descriptor = self._held.pop(owner_id, None)
        if descriptor is not None:
            (self._folder / owner_id).unlink(missing_ok=True)
            os.close(descriptor)

    def dead(self, owner_ids: Iterable[str]) -> list[str]:
        """Returns those that have shown that they live, and do not any more; of others nothing is known."""
        return [owner_id for owner_id in owner_ids if self._is_dead(owner_id)]

    def _is_dead(self, owner_id: str) -> bool:
        if fcntl is None or not _NAME.fullmatch(owner_id):
            return False
        path = self._folder / owner_id
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # it never showed that it lives, at least not here
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)
