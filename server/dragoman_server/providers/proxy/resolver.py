"""Finds the addresses of a host, and lets only those through that may be called."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError
from dragoman_server.providers.proxy.allow_list import is_public

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.providers.upstream.client import Resolver


async def resolve(host: str, port: int) -> list[str]:
    """Returns the IP addresses of a host.

    Raises:
        OSError: If there are none.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def resolve_public(resolver: Resolver, host: str, port: int) -> Sequence[str]:
    """Returns the IP addresses of a host on the public internet.

    The caller connects to one of these and looks no name up again, so that what was checked is what is called.

    Args:
        resolver: Finds the addresses.
        host: The host.
        port: The port.

    Raises:
        OSError: If the host has no address.
        ProviderError: If any of them is private: a name that leads to both is not to be trusted.
    """
    addresses = await resolver(host, port)
    if not all(map(is_public, addresses)):
        raise ProviderError(
            "the upstream server has an address that must not be called",
            reason=Reason.UPSTREAM_NOT_ALLOWED,
            retryable=False,
        )
    return addresses
