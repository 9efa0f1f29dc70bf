"""`/v1/usage`: what runs used, in proto-JSON with the field names of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dragoman.v1.usage_service_pb2 import ListUsageRequest, SummarizeUsageRequest, UsageDimension, UsageFilter
from dragoman_edge.calls import answer_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.proto_json import from_json, to_json
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

RequestT = TypeVar("RequestT", ListUsageRequest, SummarizeUsageRequest)

_DIMENSIONS = {
    name.removeprefix("USAGE_DIMENSION_").lower(): number for name, number in UsageDimension.items() if number
}
_INTERVALS = {
    name.removeprefix("INTERVAL_").lower(): number for name, number in SummarizeUsageRequest.Interval.items() if number
}


def usage_routes(edge: Edge) -> list[Route]:
    """Returns the routes of usage."""
    usage = edge.core.usage

    async def list_usage(exchange: Exchange) -> Response:
        request = _request(ListUsageRequest, exchange.query())
        return exchange.json(to_json(await answer_of(usage.ListUsage(request, metadata=exchange.metadata()))))

    async def summarize_usage(exchange: Exchange) -> Response:
        query: dict[str, Any] = exchange.query()
        if "dimensions" in query:
            names = [name.strip() for name in query["dimensions"].split(",") if name.strip()]
            query["dimensions"] = [_one_of(_DIMENSIONS, name, "dimensions") for name in names]
        if "interval" in query:
            query["interval"] = _one_of(_INTERVALS, query["interval"], "interval")
        request = _request(SummarizeUsageRequest, query)
        return exchange.json(to_json(await answer_of(usage.SummarizeUsage(request, metadata=exchange.metadata()))))

    return [
        Route(
            "GET",
            "/v1/usage",
            list_usage,
            tag="Usage",
            summary="Lists what runs used, newest first.",
            description="Records appear within a second of a run's end. " + _WHOSE,
            parameters=(*_FILTER, *_PAGING),
            answers={"application/json": "dragoman.v1.ListUsageResponse"},
        ),
        Route(
            "GET",
            "/v1/usage/summary",
            summarize_usage,
            tag="Usage",
            summary="Sums up what runs used, by time and more.",
            description="Intervals without runs are left out. " + _WHOSE,
            parameters=(*_FILTER, *_GROUPING),
            answers={"application/json": "dragoman.v1.SummarizeUsageResponse"},
        ),
    ]


def _request(kind: type[RequestT], query: dict[str, Any]) -> RequestT:
    """Returns the request that a query makes: the parameters of the filter stand beside the others."""
    names = UsageFilter.DESCRIPTOR.fields_by_name
    which = from_json(UsageFilter, {name: value for name, value in query.items() if name in names})
    if "filter" in query:
        raise EdgeError("Unknown parameter: 'filter'.", param="filter", code="unknown_parameter")
    request = from_json(kind, {name: value for name, value in query.items() if name not in names})
    request.filter.CopyFrom(which)
    return request


def _one_of(known: dict[str, int], name: str, param: str) -> int:
    if name not in known:
        raise EdgeError(f"Invalid '{param}': it must be one of {', '.join(known)}.", param=param)
    return known[name]


_WHOSE = (
    "An administrator sees all of the account; others see what their user did, or what was done with their key if it "
    "is nobody's."
)
_TIME = {"type": "string", "format": "date-time"}
_FILTER = (
    Parameter("account_id", "query", "The account; absent means the caller's own. Others need the role OPERATOR."),
    Parameter("start_time", "query", "From when on; inclusive.", _TIME),
    Parameter("end_time", "query", "Until when; exclusive.", _TIME),
    Parameter("user_id", "query", "The user."),
    Parameter("key_id", "query", "The key."),
    Parameter("model", "query", "The model that was asked for."),
    Parameter("provider", "query", "The provider that served it."),
    Parameter("operation", "query", "What was done: `chat` or `embeddings`."),
)
_PAGING = (
    Parameter(
        "page_size",
        "query",
        "Most records to return; absent or 0 means 50, more than 1,000 means 1,000.",
        {"type": "integer", "minimum": 0},
    ),
    Parameter("page_token", "query", "`next_page_token` of the page before."),
)
_GROUPING = (
    Parameter(
        "interval",
        "query",
        "Length of the intervals; `day`, of UTC, if absent. `all` makes one of all the time.",
        {"type": "string", "enum": list(_INTERVALS)},
    ),
    Parameter("dimensions", "query", f"By what else, with commas between: {', '.join(_DIMENSIONS)}."),
)
