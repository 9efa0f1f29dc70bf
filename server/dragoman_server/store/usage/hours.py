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
    sums: defaultdict[UsageHour, list[int]] = defaultdict(lambda: [0] * len(COUNTS))
    for r in records:
        hour = r.create_time - r.create_time % HOUR
        total = sums[UsageHour(r.account_id, hour, r.user_id, r.key_id, r.model, r.provider, r.operation, r.currency)]
        added = (
            1,
            r.state == _FAILED,
            r.input_tokens,
            r.cached_tokens,
            r.output_tokens,
            r.charged_micros,
            r.duration_ms,
        )
        for i, value in enumerate(added):
            total[i] += value
    return dict(sums)
