"""Logins with name and password: a short-lived access token, and a refresh token that is good once.

A refresh token is `dgr_`, the login's id, and 256 random bits; stored is the hash of the one that is good. One that
comes a second time was copied by somebody: the login ends, for its owner too, who logs in again.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.accounts.secrets import secret_hash
from dragoman_server.accounts.tokens import LOGIN_ISSUER, load_algorithms, new_token
from dragoman_server.errors import Forbidden, NotFound, RateLimited, Unauthenticated, Unimplemented
from dragoman_server.store.identity.records import LoginRecord
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from dragoman_server.accounts.authentication import Authenticator
    from dragoman_server.accounts.passwords import Passwords
    from dragoman_server.clock import Clock
    from dragoman_server.settings import LoginSettings
    from dragoman_server.store.identity.records import IdentityStore, UserRecord

SECRET = "login_tokens"
"""Name of the server's own secret that access tokens are signed with, where the configuration has none."""

SECRET_BYTES = 32
"""Fewest bytes of that secret."""

GLOBAL_FACTOR = 100
"""How many times the failures of one name are taken of all names together."""

MAX_NAMES = 10_000
"""Most names whose failures are remembered."""

_REFRESH_TOKEN = re.compile(r"dgr_(login_[0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoginTokens:
    """Tokens of a login.

    Attributes:
        access_token: Sent with each call.
        refresh_token: Good for one refresh.
        expire_time: When the access token stops working, in microseconds since the epoch.
    """

    access_token: str
    refresh_token: str
    expire_time: int


class Throttle:
    """Counts failures by name, and refuses further attempts of names, and of all together, that had too many."""

    def __init__(self, attempts: int, window: float, monotonic: Clock) -> None:
        self._attempts = attempts
        self._window = window
        self._monotonic = monotonic
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def check(self, name: str) -> None:
        """Does nothing if the name may try.

        Raises:
            RateLimited: If not now.
        """
        self._check(self._failures.get(name, deque()), self._attempts)
        self._check(self._all, self._attempts * GLOBAL_FACTOR)

    def attempted(self, name: str) -> None:
        """Counts an attempt, which may fail."""
        now = self._monotonic()
        if name not in self._failures and len(self._failures) >= MAX_NAMES:
            self._failures.popitem(last=False)
        self._failures.setdefault(name, deque()).append(now)
        self._failures.move_to_end(name)
        self._all.append(now)

    def succeeded(self, name: str) -> None:
        """Takes back what was counted of a name."""
        self._failures.pop(name, None)
        if self._all:
            self._all.pop()

    def _check(self, failures: deque[float], most: int) -> None:
        now = self._monotonic()
        while failures and failures[0] <= now - self._window:
            failures.popleft()
        if len(failures) >= most:
            wait = math.ceil(failures[0] + self._window - now)
            raise RateLimited("too many failed logins; try again later", retry_after=wait, metadata={"limit": "logins"})


class Logins:
    """Logs users in and out.

    Args:
        settings: The knobs.
        store: Those who may call.
        authenticator: Is told of logins that end.
        passwords: Checks passwords.
        clock: Tells the time.
        monotonic: Tells how time passes.
    """

    def __init__(
        self,
        settings: LoginSettings,
        store: IdentityStore,
        authenticator: Authenticator,
        passwords: Passwords,
        clock: Clock,
        monotonic: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._authenticator = authenticator
        self._passwords = passwords
        self._clock = clock
        self._throttle = Throttle(settings.attempts, settings.window, monotonic)
        self._secret: bytes | None = None

    async def open(self) -> bytes:
        """Returns what access tokens are signed with: as configured, or the server's own, made at its first start."""
        if self._secret is None:
            configured = self._settings.secret
            if configured is not None:
                self._secret = configured.get_secret_value().encode()
            else:
                self._secret = await self._store.secrets.ensure(SECRET, secrets.token_bytes(SECRET_BYTES))
        return self._secret

    async def login(self, email: str, password: str) -> tuple[LoginTokens, UserRecord]:
        """Exchanges name and password for tokens.

        Raises:
            Unauthenticated: If they are wrong (LOGIN_FAILED); which of them, nobody is told.
            Forbidden: If the user, or the account, is disabled.
            RateLimited: If there were too many failures.
            Unavailable: If too many log in at once.
            Unimplemented: If logins are switched off.
        """
        self._require_enabled()
        name = email.lower()[:256]
        self._throttle.check(name)
        self._throttle.attempted(name)  # counted before it is known: those that come together count too
        user = await self._store.users.find(name) if email.isprintable() else None
        matches = await self._passwords.matches(None if user is None else user.password_hash, password)
        if user is None or user.password_hash is None or not matches:
            raise Unauthenticated("the name or the password is wrong", reason=Reason.LOGIN_FAILED)
        self._throttle.succeeded(name)
        await self._require_enabled_user(user)
        now = int(self._clock() * 1_000_000)
        login_id = f"login_{secrets.token_hex(16)}"  # who knows it can end the login: it must not be guessed
        refresh_token = _new_refresh_token(login_id)
        login = LoginRecord(
            id=login_id,
            account_id=user.account_id,
            user_id=user.id,
            token_hash=secret_hash(refresh_token),
            create_time=now,
            expire_time=self._expiry(now),
        )
        try:
            await self._store.logins.add(login, user.password_hash)
        except NotFound:  # erased since, or the password is another one now
            raise Unauthenticated("the name or the password is wrong", reason=Reason.LOGIN_FAILED) from None
        logger.info("logged in", user_id=user.id)
        return await self._tokens(login, refresh_token, now), user

    async def refresh(self, refresh_token: str) -> LoginTokens:
        """Exchanges a refresh token, which is then used up, for new tokens.

        Raises:
            Unauthenticated: If it is not good (LOGIN_FAILED). If it was good once, its login ends.
            Forbidden: If the user, or the account, is disabled.
            Unimplemented: If logins are switched off.
        """
        self._require_enabled()
        login = await self._find(refresh_token)
        now = int(self._clock() * 1_000_000)
        if login is None or login.expire_time <= now:
            raise _refused()
        user = await self._store.users.get(login.account_id, login.user_id)
        if user is None:
            raise _refused()
        await self._require_enabled_user(user)
        new = _new_refresh_token(login.id)
        old_hash = secret_hash(refresh_token)
        if not await self._store.logins.rotate(login.id, old_hash, secret_hash(new), self._expiry(now)):
            await self._end(login)
            logger.warning("a refresh token came twice; its login has ended", user_id=login.user_id)
            raise _refused()
        return await self._tokens(login, new, now)

    async def logout(self, refresh_token: str) -> None:
        """Ends the login that a refresh token belongs to, with all its tokens. Repeatable."""
        login = await self._find(refresh_token)
        if login is not None:
            await self._end(login)

    async def _find(self, refresh_token: str) -> LoginRecord | None:
        match = _REFRESH_TOKEN.fullmatch(refresh_token)
        return None if match is None else await self._store.logins.get(match[1])

    async def _end(self, login: LoginRecord) -> None:
        await self._store.logins.end(login.id)
        self._authenticator.forget_account(login.account_id)

    async def _tokens(self, login: LoginRecord, refresh_token: str, now: int) -> LoginTokens:
        seconds = now // 1_000_000
        expire_time = seconds + math.ceil(self._settings.access_ttl)
        claims = {
            "iss": LOGIN_ISSUER,
            "aud": LOGIN_ISSUER,
            "sub": login.user_id,
            "account": login.account_id,
            "sid": login.id,
            "jti": secrets.token_hex(8),
            "iat": seconds,
            "exp": expire_time,
        }
        await load_algorithms()
        return LoginTokens(new_token(claims, await self.open()), refresh_token, expire_time * 1_000_000)

    def _expiry(self, now: int) -> int:
        return now + int(self._settings.refresh_ttl * 1_000_000)

    def _require_enabled(self) -> None:
        if not self._settings.enabled:
            raise Unimplemented("logins with name and password are switched off (auth.login.enabled)")

    async def _require_enabled_user(self, user: UserRecord) -> None:
        account = await self._store.accounts.get(user.account_id)
        if account is None:
            raise _refused()
        if user.disabled or account.disabled:
            what = "user" if user.disabled else "account"
            raise Forbidden(f"the {what} is disabled", reason=Reason.ACCOUNT_DISABLED)


def _new_refresh_token(login_id: str) -> str:
    return f"dgr_{login_id}_{secrets.token_urlsafe(32)}"


def _refused() -> Unauthenticated:
    return Unauthenticated("the refresh token is not good any more; log in again", reason=Reason.LOGIN_FAILED)
