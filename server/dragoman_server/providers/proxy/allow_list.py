"""The list of servers that callers may name. What is not on it is refused before anything is resolved or connected."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.upstream.address import Address, parse_base_url

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Allowed:
    """A server on the list.

    Attributes:
        address: The server; callers may name its path and everything below.
        names_port: Whether the entry itself names the port: such a server may be at a private address.
    """

    address: Address
    names_port: bool

    def covers(self, address: Address) -> bool:
        """Whether an address is this server, at this path or below."""
        own = self.address
        if (address.tls, address.host.lower(), address.port) != (own.tls, own.host.lower(), own.port):
            return False
        return address.path == own.path or address.path.startswith(f"{own.path}/")


class AllowList:
    """The configured list.

    Args:
        urls: Base URLs.

    Raises:
        InvalidRequest: If one is malformed.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._allowed = tuple(_entry(number, url) for number, url in enumerate(urls, 1))

    def find(self, url: str) -> tuple[Address, Allowed]:
        """Returns the address of a server that a caller names, and the entry that allows it.

        Raises:
            InvalidRequest: If there is none (UPSTREAM_NOT_ALLOWED). The message does not repeat the address: it may
                hold secrets.
        """
        if not url.isascii():
            raise _refused("has an address that is not ASCII")
        try:
            address = _address(url)
        except InvalidRequest:
            raise _refused("has no valid address") from None
        for allowed in self._allowed:
            if allowed.covers(address):
                return address, allowed
        raise _refused("is not on this server's allow-list")


def _entry(number: int, url: str) -> Allowed:
    try:
        return Allowed(_address(url), _names_port(url))
    except InvalidRequest as error:
        raise InvalidRequest(
            f"entry {number} of [proxy] allow is wrong: {error.message}", field="proxy.allow"
        ) from None


def _address(url: str) -> Address:
    """Takes a base URL apart, strictly: what servers and we might read differently is refused."""
    address = parse_base_url(url)
    path = unquote(urlsplit(url).path)
    if address.query or "#" in url or "\\" in url:
        raise InvalidRequest("the address must have no query and no fragment", field="base_url")
    if "%" in path or any(part in (".", "..") for part in path.split("/")) or "//" in path:
        raise InvalidRequest("the path of the address is ambiguous", field="base_url")
    if any(character <= " " or character == "\x7f" for character in url + path):
        raise InvalidRequest("the address has spaces or control characters", field="base_url")
    return address


def _names_port(url: str) -> bool:
    return urlsplit(url).port is not None


def _refused(problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"the upstream server {problem}", reason=Reason.UPSTREAM_NOT_ALLOWED, field="spec.chat.upstream.base_url"
    )


_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Addresses at which clouds tell machines about themselves, and that lie in no private range."""


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet: not private, loopback, link-local or a cloud's own."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None or (inner is None and address not in _UNICAST):
            return False
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast and address not in _METADATA
