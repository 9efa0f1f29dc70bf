"""`dragoman.v1.UsageService`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from dragoman.v1 import usage_service_pb2 as pb
from dragoman.v1 import usage_service_pb2_grpc as rpc
from dragoman.v1.usage_pb2 import Charge, InputTokenDetails, OutputTokenDetails
from dragoman.v1.usage_pb2 import Usage as UsageCounts
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.api.times import micros_of, timestamp
from dragoman_server.errors import InvalidRequest, NotFound
from dragoman_server.store.usage.records import HOUR
from dragoman_server.usage.service import DAY, UsageFilter

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    from dragoman_server.accounts.service import Accounts
    from dragoman_server.store.usage.records import UsageRecord, UsageSum
    from dragoman_server.usage.service import Usage

    Context = grpc.aio.ServicerContext[Any, Any]

_Interval = pb.SummarizeUsageRequest
_INTERVALS = {
    _Interval.INTERVAL_UNSPECIFIED: DAY,
    _Interval.INTERVAL_HOUR: HOUR,
    _Interval.INTERVAL_DAY: DAY,
    _Interval.INTERVAL_ALL: None,
}
_DIMENSIONS = {
    pb.USAGE_DIMENSION_USER: "user_id",
    pb.USAGE_DIMENSION_KEY: "key_id",
    pb.USAGE_DIMENSION_MODEL: "model",
    pb.USAGE_DIMENSION_PROVIDER: "provider",
    pb.USAGE_DIMENSION_OPERATION: "operation",
}


class UsageServicer(rpc.UsageServiceServicer):
    """Serves what runs used.

    Args:
        usage: What they used.
        accounts: Knows which accounts there are.
    """

    def __init__(self, usage: Usage, accounts: Accounts) -> None:
        self._usage = usage
        self._accounts = accounts

    @mapped
    async def ListUsage(self, request: pb.ListUsageRequest, context: Context) -> pb.ListUsageResponse:
        """Lists records."""
        which = await self._filter(request.filter)
        records, token = await self._usage.records(caller_of(), which, request.page_size, request.page_token)
        return pb.ListUsageResponse(records=map(_record, records), next_page_token=token)

    @mapped
    async def SummarizeUsage(self, request: pb.SummarizeUsageRequest, context: Context) -> pb.SummarizeUsageResponse:
        """Sums records up."""
        if request.interval not in _INTERVALS:
            raise InvalidRequest("`interval` must be HOUR, DAY or ALL", field="interval")
        if not all(dimension in _DIMENSIONS for dimension in request.dimensions):
            raise InvalidRequest("`dimensions` has one that does not exist", field="dimensions")
        dimensions = [_DIMENSIONS[dimension] for dimension in dict.fromkeys(request.dimensions)]
        which, interval = await self._filter(request.filter), _INTERVALS[request.interval]
        sums = await self._usage.summarize(caller_of(), which, interval=interval, dimensions=dimensions)
        groups = groupby(sums, lambda total: total[: total._fields.index("currency")])
        return pb.SummarizeUsageResponse(sums=[_sum(group) for _, group in groups])

    async def _filter(self, message: pb.UsageFilter) -> UsageFilter:
        """Returns which runs are meant.

        Raises:
            InvalidRequest: If a time makes no sense.
            NotFound: If there is no such account, or it is another's.
        """
        if message.account_id:
            try:
                await self._accounts.tenants.get(caller_of(), message.account_id)
            except NotFound as error:
                error.field = "filter.account_id"
                raise
        return _filter(message)


def _filter(message: pb.UsageFilter) -> UsageFilter:
    return UsageFilter(
        account_id=message.account_id,
        start_time=micros_of(message, "start_time", "filter."),
        end_time=micros_of(message, "end_time", "filter."),
        user_id=message.user_id,
        key_id=message.key_id,
        model=message.model,
        provider=message.provider,
        operation=message.operation,
    )


def _record(record: UsageRecord) -> pb.UsageRecord:
    return pb.UsageRecord(
        run_id=record.run_id,
        account_id=record.account_id,
        user_id=record.user_id,
        key_id=record.key_id,
        create_time=timestamp(record.create_time),
        operation=record.operation,
        model=record.model,
        provider=record.provider,
        state=record.state,  # type: ignore[arg-type]  # as it came out of a Run
        failure_reason=record.failure_reason,
        usage=UsageCounts(
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            input_details=InputTokenDetails(cached_tokens=record.cached_tokens) if record.cached_tokens else None,
            output_details=OutputTokenDetails(reasoning_tokens=record.reasoning_tokens)
            if record.reasoning_tokens
            else None,
            estimated=record.estimated,
        ),
        charge=Charge(currency=record.currency, amount_micros=record.charged_micros) if record.currency else None,
        duration_ms=record.duration_ms,
        first_content_ms=record.first_content_ms,
    )


def _sum(parts: Iterable[UsageSum]) -> pb.UsageSum:
    """Returns the sum of those that differ in their currency only."""
    total = pb.UsageSum()
    for part in parts:
        total.start_time.FromMicroseconds(part.start_time)
        total.user_id, total.key_id, total.model = part.user_id, part.key_id, part.model
        total.provider, total.operation = part.provider, part.operation
        total.runs += part.runs
        total.failed_runs += part.failed_runs
        total.input_tokens += part.input_tokens
        total.cached_tokens += part.cached_tokens
        total.output_tokens += part.output_tokens
        total.duration_ms += part.duration_ms
        if part.currency:
            total.charged_micros[part.currency] += part.charged_micros
    return total
