"""The public keys of an identity provider (JWK Set, RFC 7517), fetched from its URL and kept.

They are fetched again when they are old, and when a token names a key that is not among them: that is how providers
rotate. The latter happens once in a while only, however many such tokens come.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from dragoman_server.accounts.tokens import algorithm_of_key
from dragoman_server.errors import DragomanError, ProviderError, Unavailable
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_server.clock import Clock
    from dragoman_server.providers.upstream.client import Exchange

MAX_AGE = 600.0
"""Seconds after which the keys are fetched again."""

MAX_STALE = 3600.0
"""Seconds after which keys that could not be fetched again are no longer believed."""

LEAST_INTERVAL = 10.0
"""Fewest seconds between two attempts to fetch them."""

TIMEOUT = 5.0
"""Seconds that fetching may take."""

MAX_BYTES = 256 * 1024
"""Largest answer that is read."""

MAX_KEYS = 100
"""Most keys that are kept; the others are ignored."""

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
"""What public keys are for."""

logger = get_logger(__name__)


class Jwks:
    """The keys at a URL."""

    def __init__(self, url: str, monotonic: Clock) -> None:
        self._url = url
        self._monotonic = monotonic
        self._keys: tuple[tuple[str | None, str, Any], ...] = ()  # key id, algorithm, key
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, key_id: str | None) -> list[Any]:
        """Returns the keys that a token may be signed with; one without key id may be signed with any.

        Raises:
            Unavailable: If no keys can be had.
        """
        if algorithm not in ALGORITHMS:
            return []
        if self._age() >= MAX_AGE or (key_id is not None and all(known != key_id for known, _, _ in self._keys)):
            await self._refresh()
        if self._age() >= MAX_STALE:
            raise Unavailable("the identity provider's keys cannot be had; try again", retry_after=LEAST_INTERVAL)
        return [
            key
            for known, its_algorithm, key in self._keys
            if its_algorithm == algorithm and (key_id is None or known == key_id)
        ]

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._monotonic() - self._fetched

    async def _refresh(self) -> None:
        if self._fetching is None:
            now = self._monotonic()
            if self._tried is not None and now - self._tried < LEAST_INTERVAL:
                return
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.shield(self._fetching)  # shared by all who wait, and ended by none of them

    async def _fetch(self) -> None:
        try:
            self._keys = parse_keys(await fetch(self._url))
            self._fetched = self._monotonic()
        except (DragomanError, ValueError) as error:
            logger.warning("the identity provider's keys cannot be fetched", error=str(error))
        finally:
            self._fetching = None


def parse_keys(body: bytes) -> tuple[tuple[str | None, str, Any], ...]:
    """Returns the keys of a set that signatures can be checked with: key id, algorithm and key of each.

    Raises:
        ValueError: If it is no set of keys.
    """
    try:
        found = json.loads(body)
        keys = found["keys"]
        if not isinstance(keys, list):
            raise TypeError("no list")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("the answer is no JSON Web Key Set") from None
    return tuple(key for data in keys[:MAX_KEYS] if isinstance(data, dict) and (key := _key(data)) is not None)


def _key(data: dict[str, Any]) -> tuple[str | None, str, Any] | None:
    """Returns a public key with its id and the one algorithm that it is for; None if it is not for signatures here."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
    from jwt.exceptions import InvalidKeyError

    kinds: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    kind = kinds.get(data["kty"]) if isinstance(data.get("kty"), str) else None
    key_id = data.get("kid")
    # A secret key (`oct`) has no place in a public set, nor has the private half of one (`d`).
    if kind is None or "d" in data or data.get("use", "sig") != "sig" or not isinstance(key_id, str | None):
        return None
    try:
        key = kind.from_jwk(data)
    except (InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        return None  # one key that this build cannot read must not cost us the others
    algorithm = algorithm_of_key(key)
    if algorithm is None or data.get("alg", algorithm) != algorithm:
        return None
    return key_id, algorithm, key


async def fetch(url: str) -> bytes:
    """Returns what is at a URL. Redirects are not followed.

    Raises:
        DragomanError: If it cannot be had.
    """
    from dragoman_server.providers.upstream.address import parse_base_url
    from dragoman_server.providers.upstream.client import Client, Timeouts

    address = parse_base_url(url)
    path = "/" if url.partition("?")[0].endswith("/") or not address.path else ""
    head = f"GET {address.target(path)} HTTP/1.1\r\nHost: {address.authority}\r\nAccept: application/json\r\n\r\n"
    client = Client(address, Timeouts(TIMEOUT, TIMEOUT, TIMEOUT, TIMEOUT), 1)
    answer = _Answer()
    try:
        answer.exchange = client.send(head.encode("ascii"), answer)
        return await answer.come
    finally:
        await client.close()


class _Answer:
    """Takes an answer whole."""

    exchange: Exchange

    def __init__(self) -> None:
        self.come: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._body = b""

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Takes the status."""
        if status != 200:
            self._fail(f"the answer has status {status}")

    def on_data(self, data: bytes) -> None:
        """Takes a piece of the body."""
        self._body += data
        if len(self._body) > MAX_BYTES:
            self._fail(f"the answer has more than {MAX_BYTES} bytes")

    def on_complete(self) -> None:
        """Hands over the body."""
        if not self.come.done():
            self.come.set_result(self._body)

    def on_error(self, error: ProviderError) -> None:
        """Hands over why nothing came."""
        if not self.come.done():
            self.come.set_exception(error)

    def _fail(self, what: str) -> None:
        self.on_error(ProviderError(what))
        self.exchange.abort()
