"""The record of a run whose answer came whole and that nobody watched, in its wire form: what its events amount to.

Most plain requests end so. To write their events, fold them and fill a record in would cost several times as much.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, Message, Part, TextPart
from dragoman.v1.run_pb2 import Choice, Run
from dragoman.v1.run_service_pb2 import ExecuteRunResponse
from dragoman.wire import number_tag, sized, tag, varint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman.v1.event_pb2 import CancelReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import RateState, Usage
    from dragoman_server.runs.fold import Step

EVENTS = 7
"""How many events such a run has: run_started, step_started, text_delta, choice_finished, usage_reported,
step_completed, run_completed."""

_RUN = tag(ExecuteRunResponse, "run")
_ID = tag(Run, "id")
_USAGE = tag(Run, "usage")
_CHARGE = tag(Run, "charge")
_RATE_STATE = tag(Run, "rate_state")
_ENDS = {reason: number_tag(Choice, "finish_reason") + varint(reason) for reason in FinishReason.values()}
"""What stands after the message of a choice, by its reason; always as long."""

_AROUND_TEXT = (
    (b"", tag(TextPart, "text"), 0),
    (b"", tag(Part, "text"), 0),
    (b"", tag(Message, "parts"), 0),
    (number_tag(Message, "role") + varint(ROLE_ASSISTANT), tag(Choice, "message"), 0),
    (b"", tag(Run, "choices"), len(_ENDS[FinishReason.FINISH_REASON_STOP])),
)
"""The fields that the text lies in, from within: what stands before, the field, and how much stands behind."""

_TIME_BYTES = 12
_CREATED, _ENDED = (
    tag(Run, field) + varint(_TIME_BYTES) + number_tag(Timestamp, "seconds") for field in ("create_time", "end_time")
)
_NANOS = number_tag(Timestamp, "nanos")
_MORE = tuple(bytes((group | 0x80,)) for group in range(0x80))
_LAST = tuple(bytes((group,)) for group in range(0x80))
"""A group of seven bits of a number that goes on, and one that is the last."""

_SAME = b"".join(
    number_tag(Run, field) + varint(value)
    for field, value in (
        ("state", Run.STATE_COMPLETED),
        ("last_sequence", EVENTS),
        ("first_available_sequence", EVENTS + 1),
    )
)
"""What all of these records say."""


class WholeFold:
    """What the fold of such a run would tell of its end."""

    __slots__ = ("end_nanos", "last_sequence", "provider", "usage")

    state: Run.State = Run.STATE_COMPLETED
    has_content = True
    failure: Failure | None = None
    cancel_reason: CancelReason | None = None
    dropped_params: Sequence[str] = ()
    emulated_features: Sequence[str] = ()

    def __init__(self, run: Run, provider: str, end_nanos: int) -> None:
        self.provider = provider
        self.usage: Usage | None = run.usage
        self.end_nanos = end_nanos
        self.last_sequence = EVENTS


def encode_record(
    run_id: str,
    create_micros: int,
    end_nanos: int,
    model: str,
    step: Step,
    text: str,
    finish_reason: int,
    usage: bytes,
    charge: bytes = b"",
) -> bytes:
    """Returns the record.

    Args:
        run_id: The run.
        create_micros: When it was accepted, in microseconds since the epoch.
        end_nanos: When it ended, in nanoseconds since the epoch.
        model: What its beginning says.
        step: What the beginning of its step says; nothing was left out or emulated.
        text: What the model said.
        finish_reason: Why it ended.
        usage: What was consumed, in the wire form of a `Usage`.
        charge: What it cost, in the wire form of a `Charge`; empty where nothing is charged.
    """
    name, said = run_id.encode(), text.encode()
    return b"".join(
        (
            _ID,
            _size(len(name)),
            name,
            _times(create_micros, end_nanos),
            _beginning(model, step.provider, step.upstream_model, step.attempt),
            _USAGE,
            _size(len(usage)),
            usage,
            sized(_CHARGE, charge) if charge else b"",
            _choice_head(len(said)),
            said,
            _ENDS[finish_reason],
        )
    )


def encode_rate_state(rate_state: RateState) -> bytes:
    """Returns what a record says besides of what was left of the caller's limits."""
    return sized(_RATE_STATE, rate_state.SerializeToString())


def response_of(record: bytes) -> tuple[ExecuteRunResponse, int]:
    """Returns the answer to who executed a run, given its record, and its size in bytes."""
    data = _RUN + _size(len(record)) + record
    return ExecuteRunResponse.FromString(data), len(data)


_size = lru_cache(maxsize=4096)(varint)


@lru_cache(maxsize=1024)  # clients may ask for any model
def _beginning(model: str, provider: str, upstream_model: str, attempts: int) -> bytes:
    """Returns what a record says of who was asked, and what all records say."""
    run = Run(model=model, provider=provider, upstream_model=upstream_model, attempts=attempts)
    return run.SerializeToString() + _SAME


@lru_cache(maxsize=4096)
def _choice_head(size: int) -> bytes:
    """Returns what stands before the text of the only choice, by the text's size in bytes."""
    head = b""
    for before, field, after in _AROUND_TEXT:
        head = before + head
        size += after
        head = field + varint(len(head) + size) + head
    return head


def _times(create_micros: int, end_nanos: int) -> bytes:
    """Returns when the run was accepted and when it ended; always as long, for numbers are written in five groups."""
    created, ended = create_micros // 1_000_000, end_nanos // 1_000_000_000
    since, nanos = create_micros % 1_000_000 * 1000, end_nanos % 1_000_000_000
    return b"".join(
        (
            _CREATED,
            _seconds(created),
            _MORE[since & 0x7F],
            _MORE[since >> 7 & 0x7F],
            _MORE[since >> 14 & 0x7F],
            _MORE[since >> 21 & 0x7F],
            _LAST[since >> 28],
            _ENDED,
            _seconds(ended),
            _MORE[nanos & 0x7F],
            _MORE[nanos >> 7 & 0x7F],
            _MORE[nanos >> 14 & 0x7F],
            _MORE[nanos >> 21 & 0x7F],
            _LAST[nanos >> 28],
        )
    )


@lru_cache(maxsize=64)  # most runs end in the second in which they began, as others do
def _seconds(seconds: int) -> bytes:
    """Returns the seconds of a point in time, and what stands before its nanoseconds."""
    low = b"".join(_MORE[seconds >> shift & 0x7F] for shift in (0, 7, 14, 21))
    return low + _LAST[seconds >> 28] + _NANOS
