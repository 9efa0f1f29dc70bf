"""How work is settled: which ends of a run are paid for. `docs/credits.md` says the same in prose."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.run_pb2 import Run

if TYPE_CHECKING:
    from dragoman.v1.usage_pb2 import Usage


class Rule(StrEnum):
    """How work ended, as the notes of ledger entries name it."""

    COMPLETED = "completed"
    """It ended well: what it consumed is charged."""
    CANCELLED = "cancelled"
    """The caller cancelled it: the prompt and what was said are charged; nothing if nothing was said."""
    DISCONNECTED = "disconnected"
    """The caller has gone: as if cancelled."""
    DEADLINE = "deadline"
    """The caller's time was over: as if cancelled."""
    FAILED = "failed"
    """The provider or this server failed: nothing is charged, unless a setting says so and something was said."""
    TOOL_FAILED = "tool_failed"
    """A tool failed: as if failed, for the tool's own step."""
    SHUTDOWN = "shutdown"
    """The server shut down: nothing is charged."""
    REFUSED = "refused"
    """It never began: nothing is charged."""
    ORPHANED = "orphaned"
    """Its process is gone: nothing is charged."""


_BY_THE_CALLER = frozenset({Rule.CANCELLED, Rule.DISCONNECTED, Rule.DEADLINE})
_BY_A_FAILURE = frozenset({Rule.FAILED, Rule.TOOL_FAILED})


def is_charged(rule: Rule, usage: Usage | None, *, charge_failed: bool) -> bool:
    """Tells whether work is paid for.

    Args:
        rule: How it ended.
        usage: What it consumed, if that is known. Without written tokens, nothing was said.
        charge_failed: Whether failures are charged.
    """
    if usage is None or rule is Rule.COMPLETED:
        return usage is not None
    if rule in _BY_THE_CALLER or (rule in _BY_A_FAILURE and charge_failed):
        return usage.output_tokens > 0
    return False


def rule_of(record: Run) -> Rule:
    """Returns how a run ended.

    Args:
        record: The record of a run that has ended.
    """
    if record.state == Run.STATE_COMPLETED:
        return Rule.COMPLETED
    if record.state == Run.STATE_FAILED:
        return Rule.DEADLINE if record.failure.reason == Reason.DEADLINE_EXCEEDED else Rule.FAILED
    if record.cancel_reason == CancelReason.CANCEL_REASON_SHUTDOWN:
        return Rule.SHUTDOWN
    if record.cancel_reason == CancelReason.CANCEL_REASON_DISCONNECTED:
        return Rule.DISCONNECTED
    return Rule.CANCELLED
