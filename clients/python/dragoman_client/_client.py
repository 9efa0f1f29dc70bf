"""The client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, Unpack

import grpc

from dragoman.v1.catalog_service_pb2 import GetModelRequest, ListModelsRequest, Model
from dragoman.v1.catalog_service_pb2_grpc import CatalogServiceStub
from dragoman.v1.embedding_service_pb2 import EmbeddingInput, EmbedRequest, EmbedResponse, TokenList
from dragoman.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from dragoman.v1.message_pb2 import Message, ToolCall
from dragoman.v1.run_pb2 import Run
from dragoman_client._accounts import Accounts, Users
from dragoman_client._calls import Caller
from dragoman_client._conversations import Conversations
from dragoman_client._errors import RunCancelled, RunFailed
from dragoman_client._keys import Keys
from dragoman_client._options import run_spec
from dragoman_client._runs import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_client._options import ChatOptions, Messages
    from dragoman_client._stream import RunStream

_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""The server has one limit for messages and says so when it is passed; the library's own 4 MiB would come before it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a chat.

    Attributes:
        run: The record of the run: all choices, usage, model.
    """

    run: Run

    @property
    def message(self) -> Message:
        """What the model said in the first choice, ready to be the next message of the conversation."""
        return self.run.choices[0].message if self.run.choices else Message()

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return "".join(part.text.text for part in self.message.parts if part.HasField("text"))

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls of tools that the first choice asks for."""
        return [part.tool_call for part in self.message.parts if part.HasField("tool_call")]


class Dragoman:
    """A client of one server, or of several behind one name.

        async with Dragoman("127.0.0.1:50051", api_key=key) as client:
            print((await client.chat("Hello!")).text)

    Make it inside a running event loop.

    Attributes:
        runs: Runs, in the contract's own terms.
        keys: API keys.
        accounts: Accounts.
        users: Users, and logins.
        conversations: Stored conversations.
    """

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        api_key: str = "",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Makes a client.

        Args:
            target: Where the server listens, as gRPC names it (`host:port`, `unix:/path`, `dns:///name:port`), or a
                channel to it, which stays open when the client closes. The server's in-process channel is one.
            api_key: The key, or an access token; empty sends none.
            credentials: Makes the connection a TLS one; only with an address.
            timeout: Seconds for calls that answer at once: everything but runs. None for no bound.

        Raises:
            ValueError: If credentials come with a channel.
        """
        self._owned: grpc.aio.Channel | None = None
        if isinstance(target, str):
            target = self._owned = (
                grpc.aio.secure_channel(target, credentials, _CHANNEL_OPTIONS)
                if credentials is not None
                else grpc.aio.insecure_channel(target, _CHANNEL_OPTIONS)
            )
        elif credentials is not None:
            raise ValueError("credentials belong to the channel: give an address, or a channel that has them")
        caller = Caller((("authorization", f"Bearer {api_key}"),) if api_key else (), timeout)
        self._caller = caller
        self._catalog = CatalogServiceStub(target)
        self._embeddings = EmbeddingServiceStub(target)
        self.runs = Runs(target, caller)
        self.keys = Keys(target, caller)
        self.accounts = Accounts(target, caller)
        self.users = Users(target, caller)
        self.conversations = Conversations(target, caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection, if it is this client's own. Calls under way are cancelled."""
        if self._owned is not None:
            await self._owned.close()

    async def chat(
        self, messages: Messages, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ChatOptions]
    ) -> Answer:
        """Asks a model and waits for the whole answer.

        Args:
            messages: The conversation.
            request_id: Idempotency key: a repeated call gets the answer of the first one.
            timeout: Seconds that the answer may take; None for no bound.
            **options: How to answer.

        Raises:
            RunFailed: If the answer failed.
            RunCancelled: If it was cancelled.
            DragomanClientError: If the call failed.
            ValueError: If a message has a form that the contract cannot hold.
        """
        run = await self.runs.execute(run_spec(messages, options), request_id=request_id, timeout=timeout)
        if run.state == Run.STATE_FAILED:
            raise RunFailed(run.failure, run.id)
        if run.state == Run.STATE_CANCELLED:
            raise RunCancelled(run.cancel_reason, run.id)
        return Answer(run)

    def stream(
        self, messages: Messages, *, request_id: str = "", timeout: float | None = None, **options: Unpack[ChatOptions]
    ) -> RunStream:
        """Asks a model and streams the events of the answer; `Runs.stream` says how a broken stream goes on.

            async for text in client.stream("Hello!").text():
                print(text, end="")

        Args:
            messages: The conversation.
            request_id: Idempotency key: a repeated call streams the answer of the first one.
            timeout: Seconds that the answer may take; None for no bound.
            **options: How to answer.

        Raises:
            ValueError: If a message has a form that the contract cannot hold.
        """
        return self.runs.stream(run_spec(messages, options), request_id=request_id, timeout=timeout)

    async def embed(
        self,
        inputs: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str = "",
        dimensions: int | None = None,
        user: str = "",
        task_type: str = "",
        timeout: float | None = None,
    ) -> EmbedResponse:
        """Turns texts into vectors.

            (vector,) = (await client.embed("Hello!")).embeddings
            print(list(vector.values))

        Args:
            inputs: A text, several texts, or the model's own tokens of several.
            model: Id or alias; empty means the server's default model for it.
            dimensions: Length of the vectors, for models that can shorten them.
            user: Your name of the end user, for the provider's abuse checks.
            task_type: What the vectors are for, in the provider's own words.
            timeout: Seconds that it may take; None for no bound.

        Returns:
            One vector for each input, in their order, and what was consumed. `dragoman.vectors.packed_floats` gives a
            vector's bytes, for example to numpy.

        Raises:
            DragomanClientError: If the call failed.
        """
        request = EmbedRequest(
            model=model,
            inputs=[_embedding_input(one) for one in ([inputs] if isinstance(inputs, str) else inputs)],
            dimensions=dimensions,
            user=user,
            task_type=task_type,
        )
        return await self._caller.unary(self._embeddings.Embed, request, timeout=timeout)

    async def models(self) -> list[Model]:
        """Returns the models that can be asked for, by id.

        Raises:
            DragomanClientError: If the call failed.
        """
        return [model async for model in self._caller.pages(self._catalog.ListModels, ListModelsRequest, "models")]

    async def model(self, model_id: str = "") -> Model:
        """Returns a model by id or alias; the default model if none is named.

        Raises:
            NotFound: If there is no such model.
            DragomanClientError: If the call failed.
        """
        return (await self._caller.quick(self._catalog.GetModel, GetModelRequest(model_id=model_id))).model


def _embedding_input(given: str | Sequence[int]) -> EmbeddingInput:
    if isinstance(given, str):
        return EmbeddingInput(text=given)
    return EmbeddingInput(tokens=TokenList(ids=given))
