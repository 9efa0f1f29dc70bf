"""Whether the server could listen where it is told to."""

from __future__ import annotations

import errno
import socket

from dragoman_cli.output import CommandError


def why_not(host: str, port: int) -> str | None:
    """Returns why nothing can listen there, or None. A race stays: the answer holds for this moment."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return None


def require(host: str, port: int, option: str) -> None:
    """Checks a port before anything is started on it.

    Raises:
        CommandError: If nothing can listen there.
    """
    if reason := why_not(host, port):
        raise CommandError(f"cannot listen on {host}:{port}: {reason}; choose another with {option}")


def url_host(host: str) -> str:
    """Returns a listening address as the host of a URL for this machine."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
