"""Embeddings of remote servers: requests and answers in one piece, over the same connections as generations.

As with generations, a dialect is data and pure functions (`EmbeddingDialect`); everything else is here.
"""

from __future__ import annotations

import asyncio
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.embedding_service_pb2 import EmbedResponse
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import ProviderError
from dragoman_server.providers.failures import broken
from dragoman_server.providers.upstream.message import post
from dragoman_server.providers.usage import sum_of_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest
    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.providers.remote import Call
    from dragoman_server.providers.upstream.client import Client, Exchange
    from dragoman_server.providers.vendors import Quirks

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Largest answer: what 2,048 vectors of 4,096 numbers take in decimal digits."""
MAX_ERROR_BYTES = 64 * 1024
"""What is read of an error."""
CALLS_AT_A_TIME = 4
"""Most requests that are made at a time for one, if the server takes fewer inputs than were given."""


class EmbeddingDialect(NamedTuple):
    """How embeddings are asked for in a wire dialect.

    Attributes:
        encode: Writes the request for some of a request's inputs. Raises UnsupportedFeature (with `field`) for what the
            dialect has no word for.
        read: Reads the answer: as many vectors as the number of inputs says, and the usage. Raises ProviderError.
        failure_of_status: Tells what an answer with another status than 200 means: status, headers (names in lower
            case), body.
    """

    encode: Callable[[EmbedRequest, Sequence[EmbeddingInput], str, Quirks], Call]
    read: Callable[[bytes, int], EmbedResponse]
    failure_of_status: Callable[[int, Mapping[bytes, bytes], bytes], ProviderError]


class RemoteEmbedder:
    """Asks a remote server for vectors.

    Args:
        dialect: What it speaks.
        quirks: How it departs from that.
        client: Calls it.
        head: Returns a request to a path up to the value of its content length.
        report: Returns a failure as clients may see it.
    """

    def __init__(
        self,
        dialect: EmbeddingDialect,
        quirks: Quirks,
        client: Client,
        head: Callable[[str], bytes],
        report: Callable[[ProviderError], Failure],
    ) -> None:
        self._dialect = dialect
        self._quirks = quirks
        self._client = client
        self._head = head
        self._report = report

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        """Returns the vectors and the usage. Cancelling the task closes the connections at once.

        Raises:
            UnsupportedFeature: If the dialect has no word for something that is asked for.
            InvalidRequest: If it cannot say the inputs.
            Unavailable: If too many requests wait for a connection, or the provider is closed.
            ProviderError: If the server refuses or fails; `usage` is that of all calls.
        """
        size = self._quirks.max_embedding_inputs
        batches = [request.inputs[start : start + size] for start in range(0, len(request.inputs), size)]
        calls = [(self._dialect.encode(request, batch, model, self._quirks), len(batch)) for batch in batches]
        if len(calls) == 1:
            return await self._ask(*calls[0])
        gate = asyncio.Semaphore(CALLS_AT_A_TIME)
        consumed: list[Usage] = []

        async def ask_in_turn(call: Call, count: int) -> EmbedResponse:
            async with gate:
                try:
                    part = await self._ask(call, count)
                except ProviderError as error:
                    consumed.append(error.usage or Usage())
                    raise
                consumed.append(part.usage)
                return part

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask_in_turn(*call)) for call in calls]
        except BaseExceptionGroup as failures:
            failure = failures.exceptions[0]
            if isinstance(failure, ProviderError):
                failure.usage = reduce(sum_of_calls, consumed)
            raise failure from None
        return _joined([task.result() for task in tasks])

    async def _ask(self, call: Call, count: int) -> EmbedResponse:
        answer = _Answer(self._dialect.failure_of_status)
        exchange = answer.exchange = self._client.send(post(self._head(call.path), call.body), answer)
        try:
            return self._dialect.read(await answer.body, count)
        except ProviderError as error:
            reported = self._report(error)
            error.message, error.metadata = reported.message, dict(reported.metadata)
            raise
        finally:
            exchange.abort()  # does nothing to one that is complete


def _joined(parts: Sequence[EmbedResponse]) -> EmbedResponse:
    whole = EmbedResponse()
    for part in parts:
        whole.embeddings.extend(part.embeddings)
        whole.usage.input_tokens += part.usage.input_tokens
    return whole


class _Answer:
    """Collects an answer in one piece; the handler of its exchange.

    Attributes:
        body: The answer, or why there is none.
    """

    exchange: Exchange

    def __init__(self, failure_of_status: Callable[[int, Mapping[bytes, bytes], bytes], ProviderError]) -> None:
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._failure_of_status = failure_of_status
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._headers = headers
        if status == 200 and headers.get(b"content-encoding", b"identity") != b"identity":
            self._fail(broken("it is compressed, although that was not asked for"))

    def on_data(self, data: bytes) -> None:
        self.exchange.moved = True
        self._size += len(data)
        if self._size <= (MAX_ANSWER_BYTES if self._status == 200 else MAX_ERROR_BYTES):
            self._pieces.append(data)
        else:
            self._fail(broken("it is too large") if self._status == 200 else self._refusal())

    def on_complete(self) -> None:
        if self._status != 200:
            self._fail(self._refusal())
        elif not self.body.done():
            self.body.set_result(b"".join(self._pieces))

    def on_error(self, error: ProviderError) -> None:
        """Takes a failure; an error answer that broke off still says why."""
        self._fail(error if self._status in (0, 200) else self._refusal())

    def _refusal(self) -> ProviderError:
        return self._failure_of_status(self._status, self._headers, b"".join(self._pieces))

    def _fail(self, error: ProviderError) -> None:
        if not self.body.done():
            self.body.set_exception(error)
