"""Counts in Redis or Valkey, for several processes. While it does not answer, each process counts alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dragoman_server.errors import InvalidRequest
from dragoman_server.ids import new_id
from dragoman_server.ratelimits import scripts
from dragoman_server.ratelimits.verdict import NOTHING, WINDOW_SECONDS, refusal, remains
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dragoman.v1.usage_pb2 import RateState
    from dragoman_server.ratelimits.memory import MemoryCounters, MemorySlot
    from dragoman_server.ratelimits.metrics import RateLimitMetrics
    from dragoman_server.ratelimits.subjects import Subject
    from dragoman_server.ratelimits.verdict import Remains

logger = get_logger(__name__)

LEASE_SECONDS = 60.0
"""How long the place of a run is kept after its process was last heard of."""

RENEW_SECONDS = LEASE_SECONDS / 3
TIMEOUT_SECONDS = 1.0
"""How long an answer of the storage may take."""
RETRY_SECONDS = 2.0
"""How long this process counts alone before it asks the storage again."""
MAX_CONNECTIONS = 32
_BATCH = 500
_PREFIX = "dragoman:limits"
_FAILURES = (RedisError, OSError)


class _Counts(NamedTuple):
    """What was counted of a subject; see `Counts`."""

    requests: int
    tokens: int
    runs: int
    reset: float


class SharedSlot:
    """See `Slot`."""

    __slots__ = ("_counters", "_ended", "_remains", "id", "keys", "lease_keys")

    def __init__(self, counters: SharedCounters, slot_id: str, subjects: Sequence[Subject], remains: Remains) -> None:
        self.id = slot_id
        self.keys = list(_keys(subjects))
        self.lease_keys = [key for subject, key in zip(subjects, self.keys[1::2], strict=True) if subject.bounds.runs]
        self._counters = counters
        self._remains = remains
        self._ended = False

    @property
    def state(self) -> RateState | None:
        """What is left of the limits."""
        return self._remains.to_state()

    def end(self, tokens: int) -> None:
        """Does what `Slot.end` says."""
        if not self._ended:
            self._ended = True
            self._counters.ended(self, tokens)


class SharedCounters:
    """The counts that several processes share.

    Args:
        url: The address, as the redis library has it.
        alone: What counts while the storage does not answer.
        metrics: Counts the failures of the storage.

    Raises:
        InvalidRequest: If the address makes no sense.
    """

    def __init__(self, url: str, alone: MemoryCounters, metrics: RateLimitMetrics) -> None:
        self._client = _connect(url)
        self._alone = alone
        self._metrics = metrics
        self._admit = self._client.register_script(scripts.ADMIT)
        self._end = self._client.register_script(scripts.END)
        self._renew = self._client.register_script(scripts.RENEW)
        self._down = False
        self._ask_again = 0.0
        self._live: set[SharedSlot] = set()
        self._ended: list[tuple[SharedSlot, int]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to renew the leases, and to send what has ended."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Sends what has ended, and closes the connections."""
        self._stopping = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        await self._client.aclose()

    async def admit(self, subjects: tuple[Subject, ...]) -> SharedSlot | MemorySlot:
        """Counts a request against all subjects, or against none.

        Raises:
            RateLimited: If a limit is used up.
        """
        now = asyncio.get_running_loop().time()
        if self._down:
            if now < self._ask_again:
                return self._alone.admit(subjects)
            self._ask_again = now + RETRY_SECONDS  # only one asks, the others need not wait for it
        slot_id = new_id("slot")
        arguments: list[Any] = [int(WINDOW_SECONDS * 1000), int(LEASE_SECONDS * 1000), slot_id]
        for subject in subjects:
            arguments += subject.bounds
        try:
            admitted, *numbers = await self._admit(keys=list(_keys(subjects)), args=arguments)
        except _FAILURES as error:
            self._fail(error)
            return self._alone.admit(subjects)
        except asyncio.CancelledError:  # its caller left, and nobody knows whether it was counted
            self.ended(SharedSlot(self, slot_id, subjects, NOTHING), 0)
            raise
        self._answered()
        quadruples = zip(*[iter(numbers)] * 4, strict=True)
        counted = [_Counts(requests, tokens, runs, reset / 1000) for requests, tokens, runs, reset in quadruples]
        if not admitted:
            raise refusal(subjects, counted, 0.0)
        counted = [counts._replace(requests=counts.requests + 1) for counts in counted]
        slot = SharedSlot(self, slot_id, subjects, remains(subjects, counted, 0.0))
        if slot.lease_keys:
            self._live.add(slot)
        return slot

    async def peek(self, subjects: tuple[Subject, ...]) -> Remains:
        """Returns what is left of the limits, and counts nothing."""
        if self._down:
            return self._alone.peek(subjects)
        pipeline = self._client.pipeline(transaction=False)
        for window in list(_keys(subjects))[::2]:
            pipeline.hmget(window, ["requests", "tokens"])
            pipeline.pttl(window)
        try:
            answers = await pipeline.execute()
        except _FAILURES as error:
            self._fail(error)
            return self._alone.peek(subjects)
        pairs = zip(answers[::2], answers[1::2], strict=True)
        counted = [
            _Counts(int(requests or 0), int(tokens or 0), 0, max(rest, 0) / 1000) for (requests, tokens), rest in pairs
        ]
        return remains(subjects, counted, 0.0)

    def ended(self, slot: SharedSlot, tokens: int) -> None:
        """Takes note of a run that has ended; Redis hears of it soon."""
        self._live.discard(slot)
        self._ended.append((slot, tokens))
        self._wake.set()

    async def _work(self) -> None:
        """Sends one thing after the other: a lease that was given back must not be renewed after that."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + RENEW_SECONDS
        while not self._stopping or self._ended:
            timer = loop.call_at(renew_at, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()
            try:
                while self._ended:
                    batch, self._ended = self._ended[:_BATCH], self._ended[_BATCH:]
                    await self._send_ended(batch)
                if loop.time() >= renew_at:
                    renew_at = loop.time() + RENEW_SECONDS
                    await self._send_renewals()
            except Exception as error:  # whatever it is, what follows must be sent, and the leases renewed
                self._fail(error)

    async def _send_ended(self, batch: Sequence[tuple[SharedSlot, int]]) -> None:
        window = int(WINDOW_SECONDS * 1000)
        async with self._client.pipeline(transaction=False) as pipeline:  # it gives its connection back if that fails
            for slot, tokens in batch:
                await self._end(keys=slot.keys, args=[window, slot.id, tokens], client=pipeline)
            await pipeline.execute()

    async def _send_renewals(self) -> None:
        leases: defaultdict[str, list[str]] = defaultdict(list)
        for slot in self._live:
            for key in slot.lease_keys:
                leases[key].append(slot.id)
        for key, ids in leases.items():
            for start in range(0, len(ids), _BATCH):
                await self._renew(keys=[key], args=[int(LEASE_SECONDS * 1000), *ids[start : start + _BATCH]])

    def _fail(self, error: Exception) -> None:
        self._metrics.failures += 1
        self._ask_again = asyncio.get_running_loop().time() + RETRY_SECONDS
        if not self._down:
            self._down = True
            logger.error("the storage of rate limits does not answer; this process counts alone", error=str(error))

    def _answered(self) -> None:
        if self._down:
            self._down = False
            logger.info("the storage of rate limits answers again")


def _keys(subjects: Sequence[Subject]) -> Iterator[str]:
    for scope, account_id, subject_id, _ in subjects:
        # The account first, as the part that decides where a cluster keeps it: a script's keys must be in one place.
        name = f"{_PREFIX}:{{{account_id}}}:{scope}:{subject_id}"
        yield name
        yield f"{name}:runs"


def _connect(url: str) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidRequest(f"the address of the rate limits' storage: {error}", field="rate_limits.storage") from None
    return Redis.from_pool(pool)
