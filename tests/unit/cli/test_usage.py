from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dragoman_cli.output import CommandError
from dragoman_cli.usage import start_of

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("12h", "2030-01-31T00:00:00+00:00"),
        ("30d", "2030-01-01T12:00:00+00:00"),
        ("1w", "2030-01-24T12:00:00+00:00"),
        ("2029-12-31", "2029-12-31T00:00:00+00:00"),
        ("2029-12-31T12:00:00+01:00", "2029-12-31T11:00:00+00:00"),
        ("99999w", "1970-01-01T00:00:00+00:00"),
    ],
)
def test_when_the_time_begins(text: str, start: str) -> None:
    expected = int(datetime.fromisoformat(start).timestamp() * 1_000_000)
    assert start_of(text, NOW.timestamp()) == expected


@pytest.mark.parametrize("text", ["", "soon", "30", "-3d", "2030-13-01"])
def test_what_means_nothing_is_told(text: str) -> None:
    with pytest.raises(CommandError, match="--since"):
        start_of(text, NOW.timestamp())
