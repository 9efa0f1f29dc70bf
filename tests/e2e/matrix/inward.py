"""The clients of the matrix: the dialects that the server is spoken to in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dragoman_server.app import Core
from tests.e2e.matrix import inward_gemini, inward_grpc, inward_openai
from tests.e2e.matrix.inward_gemini import Gemini
from tests.e2e.matrix.inward_grpc import Grpc
from tests.e2e.matrix.inward_openai import OpenAI
from tests.support.edge import running_edge, url_of

Client = OpenAI | Gemini | Grpc
"""Asks in one dialect. `hides` are the words that the dialect does not tell apart."""

INWARD: dict[str, type[Client]] = {"openai": OpenAI, "gemini": Gemini, "grpc": Grpc}
FIELDS = {"openai": inward_openai.FIELDS, "gemini": inward_gemini.FIELDS, "grpc": inward_grpc.FIELDS}
"""What paths in the contract are called by each; what is not here is called what it is."""


@asynccontextmanager
async def clients_of(core: Core) -> AsyncIterator[dict[str, Client]]:
    """Yields a client of each dialect; those of HTTP come through an edge."""
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(running_edge(core.channel()))
        clients: dict[str, Client] = {}
        for name, kind in INWARD.items():
            target = core.grpc_address if name == "grpc" else url_of(edge)
            clients[name] = kind(str(target))
            stack.push_async_callback(clients[name].close)
        yield clients
