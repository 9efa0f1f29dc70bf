"""Rate limits: requests and tokens in a minute, and runs at a time, of keys, users and accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dragoman_server.errors import InvalidRequest, RateLimited, Unimplemented
from dragoman_server.ratelimits.memory import MemoryCounters
from dragoman_server.ratelimits.metrics import RateLimitMetrics
from dragoman_server.ratelimits.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from prometheus_client import CollectorRegistry

    from dragoman.v1.usage_pb2 import RateState
    from dragoman_server.caller import Caller
    from dragoman_server.ratelimits.shared import SharedCounters
    from dragoman_server.ratelimits.subjects import Subject
    from dragoman_server.settings import PlanSettings, RateLimitSettings


class Slot(Protocol):
    """A request that was admitted."""

    @property
    def state(self) -> RateState | None:
        """What is left of the caller's limits, right after the request was counted; None if there are none."""

    def end(self, tokens: int) -> None:
        """Frees the place of the run and counts its tokens, read and written ones, in the minute in which it ends.

        Never blocks. Only the first call counts.
        """


class _FreeSlot:
    """The slot of those without limits."""

    state = None

    def end(self, tokens: int) -> None:
        """Does nothing."""


_FREE = _FreeSlot()

_SHARED_SCHEMES = ("redis", "rediss", "valkey", "valkeys")


class RateLimits:
    """The limits of all callers.

    Args:
        settings: The limits, and where requests are counted.
        plans: The plans, which may have limits of their own.
        registry: Where metrics are exposed, if anywhere.

    Raises:
        InvalidRequest: If the address of the storage is none.
        Unimplemented: If it needs an extra that is not installed.
    """

    def __init__(
        self,
        settings: RateLimitSettings,
        plans: Iterable[PlanSettings] = (),
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._subjects = Subjects(settings, plans)
        self._metrics = RateLimitMetrics(registry)
        self._memory = MemoryCounters()
        self._shared = _shared(settings.storage.get_secret_value(), self._memory, self._metrics)

    async def start(self) -> None:
        """Begins to keep the places of runs, where they are counted outside of this process."""
        if self._shared is not None:
            self._shared.start()

    async def stop(self) -> None:
        """Sends what is still to be counted, and closes the connections."""
        if self._shared is not None:
            await self._shared.stop()

    def concerns(self, caller: Caller) -> bool:
        """Tells whether any limit holds for a caller; `admit` may be left out where none does."""
        if self._subjects.only_own and caller.key_limits is None and caller.account_limits is None:
            return False
        return bool(self._subjects.of(caller))

    def admit(self, caller: Caller) -> Slot | Awaitable[Slot]:
        """Counts a request of a caller. To be awaited only if it is counted outside of this process.

        A request that one limit refuses does not count against the others. Tokens are counted when a run ends: it is
        the next request that is refused when they are used up.

        Raises:
            RateLimited: If a limit is used up; the awaitable raises it too. Metadata says which (`scope`, `limit_name`,
                `limit`, `remaining`, `reset_seconds`), and what is left of all of them.
        """
        subjects = self._subjects.of(caller)
        if not subjects:
            return _FREE
        if self._shared is not None:
            return self._admit_shared(self._shared, subjects)
        try:
            return self._memory.admit(subjects)
        except RateLimited as error:
            self._metrics.refused(error)
            raise

    async def state_of(self, caller: Caller) -> RateState | None:
        """Returns what is left of a caller's limits, and counts nothing; None if there are none."""
        subjects = self._subjects.of(caller)
        if not subjects:
            return None
        remains = self._memory.peek(subjects) if self._shared is None else await self._shared.peek(subjects)
        return remains.to_state()

    async def _admit_shared(self, shared: SharedCounters, subjects: tuple[Subject, ...]) -> Slot:
        try:
            return await shared.admit(subjects)
        except RateLimited as error:
            self._metrics.refused(error)
            raise


def _shared(url: str, memory: MemoryCounters, metrics: RateLimitMetrics) -> SharedCounters | None:
    """Returns the counters at an address, or None for those of the process."""
    scheme, found, _ = url.partition("://")
    if found and scheme == "memory":
        return None
    if not found or scheme not in _SHARED_SCHEMES:
        raise InvalidRequest(
            "the storage of rate limits must be memory://, redis://HOST:PORT/N or valkey://HOST:PORT/N (rediss:// and "
            "valkeys:// with TLS)",
            field="rate_limits.storage",
        )
    try:
        from dragoman_server.ratelimits.shared import SharedCounters
    except ImportError as error:
        raise Unimplemented("rate limits in Redis need an extra: pip install 'dragoman[redis]'") from error
    return SharedCounters(url.replace("valkey", "redis", 1), memory, metrics)
