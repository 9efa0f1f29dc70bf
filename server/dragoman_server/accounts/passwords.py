"""Passwords: hashed with argon2id, on threads of their own, and a few at a time.

Checking one takes the time and the memory that make guessing dear, so both are bounded here: no more than a few are
checked at once, and no more than some wait for their turn.
"""

from __future__ import annotations

import asyncio
import functools
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from dragoman_server.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from argon2 import PasswordHasher

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

MIN_CHARS = 8
MAX_CHARS = 256

AT_ONCE = 2
"""Most passwords that are worked on at a time; each takes 64 MiB."""

MAX_WAITING = 64
"""Most that are worked on, or wait for their turn."""

# Of a password that nobody has, with the parameters of `_hasher`: what is checked in place of one that does not exist.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$YW5vYm9keWFub2JvZHk$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Passwords:
    """Hashes and checks passwords, off the event loop."""

    def __init__(self) -> None:
        # Threads of their own bound how many are worked on, also when those who asked have left: no thread can be
        # interrupted, and one that nobody waits for any more takes as much as any other.
        self._threads = ThreadPoolExecutor(AT_ONCE, "passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Returns what is stored of a password.

        Raises:
            InvalidRequest: If it is too short or too long.
            Unavailable: If too many wait.
        """
        if not MIN_CHARS <= len(password) <= MAX_CHARS:
            raise InvalidRequest(f"password must have {MIN_CHARS} to {MAX_CHARS} characters", field="password")
        return await self._do(_hash, _normal(password))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Tells whether a password is the one that was stored; takes as long when none was.

        Raises:
            Unavailable: If too many wait.
        """
        matches = await self._do(_matches, stored or _NOBODY, _normal(password[:MAX_CHARS]))
        return matches and stored is not None and len(password) <= MAX_CHARS

    def close(self) -> None:
        """Lets the threads go when they have done what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[*Ts], R], *arguments: *Ts) -> R:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many passwords wait to be checked; try again", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher, Type

    return PasswordHasher(time_cost=3, memory_cost=65536, parallelism=4, hash_len=32, salt_len=16, type=Type.ID)


def _hash(password: bytes) -> str:
    return _hasher().hash(password)


def _matches(stored: str, password: bytes) -> bool:
    from argon2.exceptions import VerificationError

    try:
        return bool(_hasher().verify(stored, password))
    except VerificationError:
        return False


def _normal(password: str) -> bytes:
    """Returns a password's bytes, the same for the same characters however a keyboard puts them together."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
