"""How every call is made: whose it is, how long it may take, and what its failure is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from dragoman_client._errors import error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes calls in the name of one key.

    Attributes:
        metadata: Goes with every call.
        timeout: Seconds for calls that answer at once.
    """

    metadata: tuple[tuple[str, str], ...]
    timeout: float | None

    async def unary(
        self,
        method: Callable[..., Awaitable[ResponseT]],
        request: object,
        *,
        timeout: float | None = None,
        run_id: str = "",
    ) -> ResponseT:
        """Makes a call, bound by `timeout` seconds or by nothing.

        Raises:
            DragomanClientError: If the call fails.
        """
        try:
            return await method(request, timeout=timeout, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, run_id) from error

    async def quick(
        self, method: Callable[..., Awaitable[ResponseT]], request: object, *, run_id: str = ""
    ) -> ResponseT:
        """Makes a call that answers at once; otherwise as `unary`."""
        return await self.unary(method, request, timeout=self.timeout, run_id=run_id)

    async def pages(
        self, method: Callable[..., Awaitable[Any]], request_type: Callable[..., object], field: str
    ) -> AsyncIterator[Any]:
        """Yields what a listing holds, page after page; `field` names the repeated field of its answer."""
        token = ""
        while True:
            page = await self.quick(method, request_type(page_token=token))
            for item in getattr(page, field):
                yield item
            token = page.next_page_token
            if not token:
                return
