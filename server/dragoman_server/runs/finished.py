"""What stays of a run that has ended when nobody can come back to its events: the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.errors import EventsEvicted

if TYPE_CHECKING:
    from dragoman.v1.event_pb2 import CancelReason
    from dragoman.v1.run_pb2 import Run
    from dragoman_server.caller import Caller
    from dragoman_server.runs.log import Subscription, Watcher


Owner = tuple[str, str]
"""Whose a run is: the account, and the user in it, who may be empty."""


def sees(caller: Caller, owner: Owner) -> bool:
    """Tells whether a caller sees a run: members see their own, administrators all of their account."""
    account_id, user_id = owner
    return account_id == caller.account_id and (user_id == caller.user_id or caller.role >= KeyRole.KEY_ROLE_ADMIN)


class KeptRun(Protocol):
    """A run that can be asked for, whether it goes on or not."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def owner(self) -> Owner:
        """The account that it belongs to, and the user in it."""

    def record(self) -> Run:
        """Returns the record so far; it is shared: reading is free, changing it is forbidden."""

    def cancel(self, reason: CancelReason) -> None:
        """Ends the run, unless it has ended."""

    def watch(self, watcher: Watcher, after_sequence: int) -> Subscription:
        """Attaches a watcher.

        Raises:
            EventsEvicted: If the events are no longer kept.
        """

    def unwatch(self, subscription: Subscription) -> None:
        """Detaches a watcher that leaves by itself."""

    def hold(self, subscription: Subscription) -> None:
        """A reader is slow."""

    def release(self, subscription: Subscription) -> None:
        """A slow reader has caught up."""


def evicted(run_id: str, wanted: int, first: int, last: int) -> EventsEvicted:
    """Returns the refusal to watch from a sequence on.

    Args:
        run_id: The run.
        wanted: The first sequence that the watcher wants.
        first: The first that is kept.
        last: The newest.
    """
    if wanted > last + 1:
        text = f"run {run_id} has no event {wanted - 1} yet: its newest is {last}"
    else:
        text = f"event {wanted} of run {run_id} is no longer kept: the first available one is {first}"
    metadata = {"run_id": run_id, "first_available_sequence": str(first), "last_sequence": str(last)}
    return EventsEvicted(f"{text}; GetRun returns the record", field="after_sequence", metadata=metadata)


class FinishedRun:
    """A run of which only the record is kept. Nobody watches it, so there is nothing to hold or detach."""

    __slots__ = ("_record", "owner")

    def __init__(self, owner: Owner, record: Run) -> None:
        self.owner = owner
        self._record = record

    @property
    def id(self) -> str:
        """The run's id."""
        return self._record.id

    def record(self) -> Run:
        """Returns the record."""
        return self._record

    def cancel(self, reason: CancelReason) -> None:
        """Does nothing: the run has ended."""

    def watch(self, watcher: Watcher, after_sequence: int) -> NoReturn:
        """Refuses: there are no events.

        Raises:
            EventsEvicted: Always.
        """
        last = self._record.last_sequence
        raise evicted(self._record.id, after_sequence + 1, last + 1, last)

    def unwatch(self, subscription: Subscription) -> None:
        """Does nothing."""

    def hold(self, subscription: Subscription) -> None:
        """Does nothing."""

    def release(self, subscription: Subscription) -> None:
        """Does nothing."""
