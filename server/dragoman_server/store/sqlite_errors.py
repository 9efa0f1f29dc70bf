"""What it means when a SQLite file that is used without the asynchronous driver does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.errors import Unavailable
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    import sqlite3

logger = get_logger(__name__)


def unavailable(error: sqlite3.OperationalError) -> Unavailable:
    """Returns what callers are told; what is no mere queue of writers goes to the log."""
    if "locked" in str(error):
        return Unavailable("the database is too busy; try again")
    logger.error("the database does not answer", error=str(error))
    return Unavailable("the database does not answer; try again", reason=Reason.STORE_UNAVAILABLE)
