"""`/v1/credits`: what accounts have to spend, what things cost, and the ledger."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1 import credit_service_pb2 as pb
from dragoman_edge.routes.native import native_route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.routing import Route

_AMOUNTS = "Amounts are integers in millionths of a currency, written as text."
_REPEATED = "With the same `request_id` again, nothing changes. Needs the role OPERATOR."


def credit_routes(edge: Edge) -> list[Route]:
    """Returns the routes of credits."""
    core = edge.core.credits
    native = partial(native_route, edge, tag="Credits")
    return [
        native(
            "GET",
            "/v1/credits/balances",
            core.ListBalances,
            pb.ListBalancesRequest,
            pb.ListBalancesResponse,
            summary="Lists the balances of an account, and its plan.",
            description=_AMOUNTS,
        ),
        native(
            "GET",
            "/v1/credits/entries",
            core.ListLedgerEntries,
            pb.ListLedgerEntriesRequest,
            pb.ListLedgerEntriesResponse,
            summary="Lists the entries of an account's ledger, newest first.",
            description=f"{_AMOUNTS} Needs the role ADMIN.",
        ),
        native(
            "GET",
            "/v1/credits/prices",
            core.ListPrices,
            pb.ListPricesRequest,
            pb.ListPricesResponse,
            summary="Lists what things cost, and the plans.",
            description=_AMOUNTS,
        ),
        native(
            "POST",
            "/v1/credits/grant",
            core.GrantCredits,
            pb.GrantCreditsRequest,
            pb.GrantCreditsResponse,
            summary="Adds to a balance.",
            description=_REPEATED,
        ),
        native(
            "POST",
            "/v1/credits/adjust",
            core.AdjustCredits,
            pb.AdjustCreditsRequest,
            pb.AdjustCreditsResponse,
            summary="Corrects a balance, up or down, but never below what is reserved.",
            description=_REPEATED,
        ),
    ]
