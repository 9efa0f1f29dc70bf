"""What the server writes about itself: one line per record, for people on a terminal, as JSON elsewhere.

    log = get_logger(__name__)
    log.info("model loaded", model="smollm2", seconds=1.9)

A thin layer over the standard library's `logging`, so that the records of all libraries take the same way. What clients
say and models answer is never logged, and whatever looks like a key is blacked out wherever it appears.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from typing import TextIO

    from dragoman_server.settings import LogSettings

_SECRET_NAME = re.compile(r"(?i)(^|[_-])(api[_-]?key|authorization|credential|password|secret|token)$")
_SECRET_TEXT = re.compile(
    r"""(?ix)
    \b(?:dgm|sk|pk|rk|gsk|hf|xai)[_-][\w-]{6}[\w-]{6,}   # keys that say what they are
    | (?<=bearer\s)\S+
    | (?<=://)[^\s/:@]*:[^\s/@]+(?=@)                    # user and password of a URL
    """
)
_MASK = "***"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "facts"}
_OURS = ("dragoman_server", "dragoman_edge", "dragoman_cli")
_COLORS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


class Log:
    """Writes records of one name; facts are given by keyword."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, **facts: object) -> None:
        """Writes what only helps to find faults."""
        self._logger.debug(message, extra={"facts": facts})

    def info(self, message: str, /, **facts: object) -> None:
        """Writes what happened as it should."""
        self._logger.info(message, extra={"facts": facts})

    def warning(self, message: str, /, **facts: object) -> None:
        """Writes what someone should look at some day."""
        self._logger.warning(message, extra={"facts": facts})

    def error(self, message: str, /, **facts: object) -> None:
        """Writes what someone must look at."""
        self._logger.error(message, extra={"facts": facts})

    def exception(self, message: str, /, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """Writes a fault of ours, with its exception: the given one, or else the one that is being handled."""
        self._logger.error(message, exc_info=exc_info or True, extra={"facts": facts})


def get_logger(name: str) -> Log:
    """Returns the log of a module: `get_logger(__name__)`."""
    return Log(logging.getLogger(name))


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sends the process's log to a stream (standard error by default). Replaces what was configured before.

    What libraries say of their good health is left out, unless the level is `debug`.
    """
    stream = stream or sys.stderr
    console = stream.isatty() if settings.format == "auto" else settings.format == "console"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter(stream.isatty()) if console else JsonFormatter())
    level = settings.level.upper()
    logging.basicConfig(handlers=[handler], level="WARNING" if level == "INFO" else level, force=True)
    for package in _OURS:
        logging.getLogger(package).setLevel(level)
    logging.captureWarnings(True)


def redact(text: str) -> str:
    """Returns the text with everything that looks like a key blacked out."""
    return _SECRET_TEXT.sub(_MASK, text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, `exception`, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {"time": _utc(record.created), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = redact(record.getMessage())
        if trace := _trace(record, self):
            line["exception"] = trace
        line |= {name: value for name, value in _facts(record).items() if name not in line}
        return orjson.dumps(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """A short line: time, level, message, facts.

    Args:
        color: Whether the terminal shows colours.
    """

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, and the lines of an exception below it."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        line = f"{clock} {record.levelname.lower():<7} {redact(record.getMessage())}{facts}"
        if trace := _trace(record, self):
            line += "\n" + trace
        color = _COLORS.get(record.levelname, "") if self._color else ""
        return f"{color}{line}\033[0m" if color else line


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Returns the facts of a record, and the plain `extra` of other loggers, fit to be shown."""
    facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    facts |= getattr(record, "facts", {})
    return {
        name: _MASK if _SECRET_NAME.search(name) else redact(value) if isinstance(value, str) else value
        for name, value in facts.items()
    }


def _trace(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    return redact(formatter.formatException(record.exc_info)) if record.exc_info else ""


def _utc(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"
