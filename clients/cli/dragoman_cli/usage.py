"""Shows what runs used, out of the database itself, whether a server runs or not."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run
from dragoman_cli.output import CommandError, table
from dragoman_cli.stores import configured_store
from dragoman_server.accounts.keys import operator
from dragoman_server.credits.service import amount_text
from dragoman_server.store.usage.records import HOUR
from dragoman_server.usage.service import DAY, Usage, UsageFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from dragoman_server.store.usage.records import UsageRecord, UsageSum

DIMENSIONS = {"user": "user_id", "key": "key_id", "model": "model", "provider": "provider", "operation": "operation"}
"""By what usage can be summed up, as the command line names it."""

INTERVALS = {"hour": HOUR, "day": DAY, "all": None}
"""The intervals of sums."""

_UNITS = {"h": HOUR, "d": DAY, "w": 7 * DAY}


def list_all(
    config: Path | None, flags: Mapping[str, object], account: str, since: str, model: str, count: int
) -> None:
    """Prints a table of the newest runs.

    Raises:
        CommandError: If the database cannot be read, or the time means nothing.
    """
    which = UsageFilter(account_id=account, start_time=start_of(since, time.time()), model=model)

    async def work() -> list[UsageRecord]:
        async with _usage(config, flags, account) as usage:
            found: list[UsageRecord] = []
            token = ""
            while len(found) < count:
                page, token = await usage.records(operator(), which, min(count - len(found), 1000), token)
                found += page
                if not token:
                    break
            return found

    heads = ("TIME", "RUN", "WHAT", "MODEL", "PROVIDER", "STATE", "READ", "WRITTEN", "CHARGED", "SECONDS")
    table(heads, [_record(record) for record in asyncio.run(work())])


def summarize(
    config: Path | None, flags: Mapping[str, object], account: str, since: str, interval: str, by: str
) -> None:
    """Prints a table of sums.

    Raises:
        CommandError: If the database cannot be read, or an option means nothing.
    """
    names = [name for name in by.replace(" ", "").split(",") if name]
    for name in names:
        if name not in DIMENSIONS:
            raise CommandError(f"--by {name}: it must be one of {', '.join(DIMENSIONS)}")
    if interval not in INTERVALS:
        raise CommandError(f"--interval {interval}: it must be one of {', '.join(INTERVALS)}")
    dimensions = [DIMENSIONS[name] for name in dict.fromkeys(names)]
    which = UsageFilter(account_id=account, start_time=start_of(since, time.time()))

    async def work() -> list[UsageSum]:
        async with _usage(config, flags, account) as usage:
            return await usage.summarize(operator(), which, interval=INTERVALS[interval], dimensions=dimensions)

    heads = ("START", *map(str.upper, dict.fromkeys(names)), "RUNS", "FAILED", "READ", "CACHED", "WRITTEN", "CHARGED")
    table(heads, [_sum(total, dimensions) for total in asyncio.run(work())])


def start_of(text: str, now: float) -> int:
    """Returns when the time begins that `12h`, `30d`, `4w` or a date such as `2030-01-31` means, in microseconds.

    Raises:
        CommandError: If it means nothing.
    """
    try:
        if match := re.fullmatch(r"(\d{1,5})([hdw])", text):
            return max(int(now * 1_000_000) - int(match[1]) * _UNITS[match[2]], 0)
        moment = datetime.fromisoformat(text)
        return max(int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000), 0)
    except (ValueError, OverflowError):
        raise CommandError(f"--since {text}: write 12h, 30d, 4w or a date such as 2030-01-31") from None


@asynccontextmanager
async def _usage(config: Path | None, flags: Mapping[str, object], account: str) -> AsyncIterator[Usage]:
    async with configured_store(config, flags, account) as (store, _):
        yield Usage(store.usage)


def _record(record: UsageRecord) -> tuple[str, ...]:
    return (
        _moment(record.create_time),
        record.run_id,
        record.operation,
        record.model,
        record.provider,
        record.failure_reason or Run.State.Name(record.state).removeprefix("STATE_").lower(),
        str(record.input_tokens),
        str(record.output_tokens),
        _amount(record.charged_micros, record.currency),
        f"{record.duration_ms / 1000:.1f}",
    )


def _sum(total: UsageSum, dimensions: list[str]) -> tuple[str, ...]:
    counts = total.runs, total.failed_runs, total.input_tokens, total.cached_tokens, total.output_tokens
    return (
        _moment(total.start_time),
        *(getattr(total, name) or "-" for name in dimensions),
        *map(str, counts),
        _amount(total.charged_micros, total.currency),
    )


def _amount(micros: int, currency: str) -> str:
    return f"{amount_text(micros)} {currency}" if currency else "-"


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
