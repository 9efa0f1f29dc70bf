"""What records add to the sums of their hours."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run
from dragoman_server.store.usage.records import COUNTS, HOUR, UsageHour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman_server.store.usage.records import UsageRecord

_FAILED = int(Run.STATE_FAILED)


def sums_by_hour(records: Iterable[UsageRecord]) -> dict[UsageHour, list[int]]:
    """Returns what records add to the sums: the counts, in the order of `COUNTS`, by hour."""
    sums: defaultdict[tuple[str | int, ...], list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    for record in records:  # by the thousand: taken apart at once, which costs a third of asking for each field
        (_, account_id, user_id, key_id, time, operation, model, provider, state, _) = record[:10]
        (input_tokens, cached_tokens, output_tokens, _, _, currency, charged_micros, duration_ms, _) = record[10:]
        total = sums[account_id, time - time % HOUR, user_id, key_id, model, provider, operation, currency]
        total[0] += 1
        total[1] += state == _FAILED
        total[2] += input_tokens
        total[3] += cached_tokens
        total[4] += output_tokens
        total[5] += charged_micros
        total[6] += duration_ms
    return {UsageHour._make(hour): total for hour, total in sums.items()}
