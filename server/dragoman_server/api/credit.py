"""`dragoman.v1.CreditService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1 import credit_service_pb2 as pb
from dragoman.v1 import credit_service_pb2_grpc as rpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped
from dragoman_server.api.times import timestamp

if TYPE_CHECKING:
    import grpc

    from dragoman_server.accounts.service import Accounts
    from dragoman_server.credits.service import Credits
    from dragoman_server.store.ledger.records import Balance, Entry

    Context = grpc.aio.ServicerContext[Any, Any]


class CreditServicer(rpc.CreditServiceServicer):
    """Serves the ledger.

    Args:
        credits: The ledger.
        accounts: Knows which accounts there are.
    """

    def __init__(self, credits: Credits, accounts: Accounts) -> None:
        self._credits = credits
        self._accounts = accounts

    @mapped
    async def ListBalances(self, request: pb.ListBalancesRequest, context: Context) -> pb.ListBalancesResponse:
        """Lists balances."""
        await self._require_account(request.account_id)
        balances, plan, renewal = await self._credits.balances(caller_of(), request.account_id)
        response = pb.ListBalancesResponse(balances=map(_balance, balances), plan=plan)
        if renewal is not None:
            response.plan_renew_time.FromDatetime(renewal)
        return response

    @mapped
    async def ListLedgerEntries(
        self, request: pb.ListLedgerEntriesRequest, context: Context
    ) -> pb.ListLedgerEntriesResponse:
        """Lists entries."""
        await self._require_account(request.account_id)
        entries, token = await self._credits.entries(
            caller_of(),
            request.page_size,
            request.page_token,
            account_id=request.account_id,
            currency=request.currency,
            run_id=request.run_id,
        )
        return pb.ListLedgerEntriesResponse(entries=map(_entry, entries), next_page_token=token)

    @mapped
    async def GrantCredits(self, request: pb.GrantCreditsRequest, context: Context) -> pb.GrantCreditsResponse:
        """Adds to a balance."""
        entry, balance = await self._credits.grant(
            caller_of(),
            request.account_id,
            request.amount_micros,
            currency=request.currency,
            note=request.note,
            request_id=request.request_id,
        )
        return pb.GrantCreditsResponse(entry=_entry(entry), balance=_balance(balance))

    @mapped
    async def AdjustCredits(self, request: pb.AdjustCreditsRequest, context: Context) -> pb.AdjustCreditsResponse:
        """Corrects a balance."""
        entry, balance = await self._credits.adjust(
            caller_of(),
            request.account_id,
            request.amount_micros,
            currency=request.currency,
            note=request.note,
            request_id=request.request_id,
        )
        return pb.AdjustCreditsResponse(entry=_entry(entry), balance=_balance(balance))

    @mapped
    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        """Lists prices and plans."""
        settings = self._credits.settings
        return pb.ListPricesResponse(
            prices=[
                pb.Price(
                    operation=price.operation,
                    model=price.model,
                    currency=price.currency,
                    request_micros=price.request_micros,
                    input_micros_per_million=price.input_micros_per_million,
                    output_micros_per_million=price.output_micros_per_million,
                    cached_input_micros_per_million=price.cached_input_micros_per_million,
                )
                for price in settings.prices
                if settings.enabled
            ],
            plans=[
                pb.Plan(
                    name=plan.name,
                    currency=plan.currency or settings.currency,
                    monthly_micros=plan.monthly_micros,
                    rollover_micros=plan.rollover_micros,
                    requests_per_minute=plan.limits.requests_per_minute,
                )
                for plan in self._credits.plans
            ],
        )

    async def _require_account(self, account_id: str) -> None:
        """Does nothing if a request names no account, or one that exists and that its caller may see.

        Raises:
            NotFound: If not.
        """
        if account_id:
            await self._accounts.tenants.get(caller_of(), account_id)


def _balance(balance: Balance) -> pb.Balance:
    return pb.Balance(
        currency=balance.currency,
        available_micros=balance.available_micros,
        held_micros=balance.held_micros,
    )


def _entry(entry: Entry) -> pb.LedgerEntry:
    return pb.LedgerEntry(
        id=entry.id,
        account_id=entry.account_id,
        currency=entry.currency,
        kind=entry.kind,  # type: ignore[arg-type]  # as the contract numbers them
        amount_micros=entry.amount_micros,
        run_id=entry.run_id,
        step_id=entry.step_id,
        create_time=timestamp(entry.create_time),
        note=entry.note,
    )
