"""Where a remote provider lives, taken from its base URL."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from dragoman_server.errors import InvalidRequest

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the folder and query of its API.

    Attributes:
        host: Name or IP address, without brackets.
        port: The port.
        tls: Whether the connection is encrypted.
        path: Path of the base URL, without a slash at the end.
        query: Query of the base URL, without the question mark; sent with every request.
    """

    host: str
    port: int
    tls: bool
    path: str = ""
    query: str = ""

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"

    def target(self, path: str) -> str:
        """Returns the request target of a path below the base URL; the path may have a query of its own."""
        if not self.query:
            return f"{self.path}{path}"
        return f"{self.path}{path}{'&' if '?' in path else '?'}{self.query}"


def parse_base_url(url: str) -> Address:
    """Takes a base URL apart.

    Raises:
        InvalidRequest: If it is not an absolute `http` or `https` URL, or carries a user name or password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"the base URL is wrong: {error}", field="base_url") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise InvalidRequest("the base URL must begin with http:// or https:// and a host", field="base_url")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("the base URL must not carry credentials; use api_key", field="base_url")
    try:
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    except UnicodeError as error:
        raise InvalidRequest(f"the host of the base URL is wrong: {error}", field="base_url") from error
    return Address(
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "https",
        path=quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._"),
        query=quote(parts.query, safe="/?%:@!$&'()*+,;=~-._"),
    )
