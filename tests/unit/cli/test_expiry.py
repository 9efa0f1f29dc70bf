from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dragoman_cli.keys import expiry
from dragoman_cli.output import CommandError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("12h", NOW + timedelta(hours=12)),
        ("2w", NOW + timedelta(weeks=2)),
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T12:00:00+02:00", datetime(2030, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_spans_and_dates(text: str, moment: datetime) -> None:
    assert expiry(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "30", "d", "-1d", "1y", "999999w", "2030-13-01"])
def test_what_means_nothing_is_refused_with_what_would(text: str) -> None:
    with pytest.raises(CommandError, match="write 12h, 30d or a date such as 2027-01-31"):
        expiry(text, NOW)
