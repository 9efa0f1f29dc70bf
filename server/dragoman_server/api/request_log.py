"""The log of requests that come over gRPC: one line for each run that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.runs.run import LiveRun

logger = get_logger(__name__)


def log_when_ended(run: LiveRun, method: str) -> None:
    """Has a line written when a run has ended; a call that finds the run of an earlier one is a line of its own.

    Args:
        run: The run.
        method: The method that was called for it.
    """
    call_id = run.call_id
    run.when_ended(lambda: _log(run.record(), method, call_id))


def _log(record: Run, method: str, call_id: str) -> None:
    start, end = record.create_time, record.end_time
    facts = {
        "request_id": call_id,
        "run_id": record.id,
        "route": method,
        "status": Run.State.Name(record.state).removeprefix("STATE_").lower(),
        "seconds": round(end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9, 6),
        "model": record.model,
        "provider": record.provider,
        "attempts": record.attempts,
        "input_tokens": record.usage.input_tokens,
        "output_tokens": record.usage.output_tokens,
        "reason": record.failure.reason,
    }
    logger.info("request", **{name: value for name, value in facts.items() if value != ""})
