from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_server.settings import LogSettings
from dragoman_server.telemetry.logs import configure, get_logger, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

log = get_logger("dragoman_server.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("dragoman_server", "dragoman_edge", "dragoman_cli"))]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_message_and_facts() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    log.info("model loaded", model="m", seconds=1.5, level="mine", name="n")
    (line,) = lines(stream)
    assert line["time"].endswith("Z")
    assert {key: line[key] for key in line if key != "time"} == {
        "level": "info",
        "logger": "dragoman_server.test",
        "message": "model loaded",
        "model": "m",
        "seconds": 1.5,
        "name": "n",
    }


def test_libraries_take_the_same_way() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    logging.getLogger("some.library").warning("%d things", 3, extra={"color": "red"})
    (line,) = lines(stream)
    assert (line["message"], line["color"], line["logger"]) == ("3 things", "red", "some.library")


def test_libraries_are_quiet_as_long_as_they_are_well() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    logging.getLogger("some.library").info("well")
    assert stream.getvalue() == ""
    configure(LogSettings(level="debug"), stream)
    logging.getLogger("some.library").debug("very well")
    assert "very well" in stream.getvalue()


def test_level_and_format_are_obeyed() -> None:
    stream = io.StringIO()
    configure(LogSettings(level="warning", format="console"), stream)
    log.info("hidden")
    log.warning("shown", run="r")
    assert stream.getvalue().endswith("warning shown run=r\n")
    assert "hidden" not in stream.getvalue()


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    configure(LogSettings(), stream)
    log.error("broken")
    assert "broken" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert "\033[31m" in stream.getvalue()


def test_an_exception_is_written_with_its_trace() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    log.exception("crashed", exc_info=ValueError("why"))
    assert "ValueError: why" in lines(stream)[0]["exception"]


@pytest.mark.parametrize(
    "secret",
    [
        "dgm_Qx3vN4mAJz0y7cYpT5bEwRk",
        "sk-proj-abcdefghijklmnop",
        "postgresql://user:sesame@host/db",
        "Authorization: Bearer abc.def",
    ],
)
def test_keys_are_blacked_out_wherever_they_are(secret: str) -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    log.warning(f"refused {secret}", detail=secret)
    log.exception("crashed", exc_info=ValueError(secret))
    written = stream.getvalue()
    assert "***" in written
    for part in ("Qx3vN4mAJz", "abcdefghijklmnop", "sesame", "abc.def"):
        assert part not in written


@pytest.mark.parametrize("name", ["api_key", "authorization", "client-secret", "hf_token"])
def test_facts_with_the_name_of_a_secret_are_blacked_out(name: str) -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream)
    log.info("made", **{name: "x"})
    assert lines(stream)[0][name] == "***"


def test_what_only_recognises_a_key_stays() -> None:
    for harmless in ("key_0192f0c1aaaabbbbccccddddeeeeffff", "dgm_Qx3vN4", "run_0192f0c1", "tokens=12"):
        assert redact(harmless) == harmless
