"""Who may call: accounts, their users, keys and logins, and telling whose credential a call carries."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from dragoman_server.accounts.acts import Acts, nothing
from dragoman_server.accounts.authentication import Authenticator
from dragoman_server.accounts.export import Exports
from dragoman_server.accounts.jwks import ALGORITHMS, Jwks
from dragoman_server.accounts.keys import Keys
from dragoman_server.accounts.logins import Logins
from dragoman_server.accounts.passwords import Passwords
from dragoman_server.accounts.sweeps import sweep_forever
from dragoman_server.accounts.tenants import Tenants
from dragoman_server.accounts.tokens import (
    LOGIN_ISSUER,
    Issuer,
    Tokens,
    load_algorithms,
    login_claims,
    only_key,
    provider_claims,
    public_key_of_pem,
)
from dragoman_server.accounts.users import Users
from dragoman_server.clock import system_clock
from dragoman_server.settings import AuditSettings, AuthSettings
from dragoman_server.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dragoman_server.accounts.acts import Welcome
    from dragoman_server.accounts.tokens import FindKeys
    from dragoman_server.clock import Clock
    from dragoman_server.settings import JwtSettings
    from dragoman_server.store.base import Store


class Accounts:
    """Those who may call.

    `cached(credential) -> Caller | None` is the synchronous fast path of `authenticate(credential) -> Caller`, and
    `recall(digest)` that of a credential whose hash is known: see `Authenticator`.

    Args:
        store: The database.
        settings: Which credentials are taken beside API keys.
        plans: The names of the plans that accounts can be subscribed to.
        welcome: Is told of each new account.
        clock: Tells the time.
        monotonic: Tells how time passes.
        audit: How long audit entries are kept.

    Attributes:
        keys: API keys.
        tenants: Accounts, and what administrators did in them.
        users: Users.
        logins: Logins with name and password.
        exports: Everything that is stored of an account.

    Raises:
        InvalidRequest: If the public key of the identity provider is none.
    """

    def __init__(
        self,
        store: Store,
        settings: AuthSettings | None = None,
        plans: Iterable[str] = (),
        welcome: Welcome = nothing,
        clock: Clock = system_clock,
        monotonic: Clock = time.monotonic,
        *,
        audit: AuditSettings | None = None,
    ) -> None:
        settings = settings or AuthSettings()
        identity = store.identity
        self._identity = identity
        self._audit = audit or AuditSettings()
        self._clock = clock
        self._sweeping: asyncio.Task[None] | None = None
        self._tokens = Tokens(clock, monotonic)
        if settings.jwt is not None:
            self._tokens.add_issuer(settings.jwt.issuer, _identity_provider(settings.jwt, monotonic))
        self._logins_enabled = settings.login.enabled
        self._has_provider = settings.jwt is not None
        self._authenticator = Authenticator(
            identity,
            self._tokens,
            create_accounts=settings.jwt is None or settings.jwt.create_accounts,
            welcome=welcome,
            clock=clock,
            monotonic=monotonic,
        )
        self.cached = self._authenticator.cached
        self.recall = self._authenticator.recall
        self.authenticate = self._authenticator.authenticate
        acts, self._passwords = Acts(clock), Passwords()
        self.keys = Keys(identity, self._authenticator, acts)
        self.tenants = Tenants(identity, self._authenticator, acts, plans, welcome)
        self.users = Users(identity, self._authenticator, acts, self._passwords)
        self.logins = Logins(settings.login, identity, self._authenticator, self._passwords, clock, monotonic)
        self.exports = Exports(store, acts)

    async def open(self) -> None:
        """Gets ready to take tokens; to be called at every start, before the first call.

        Raises:
            Unavailable: If the database does not answer.
        """
        if self._logins_enabled:
            find = only_key("HS256", await self.logins.open())
            self._tokens.add_issuer(LOGIN_ISSUER, Issuer(LOGIN_ISSUER, frozenset({"HS256"}), find, 0, login_claims))
        if self._has_provider:
            await load_algorithms()  # or the first token would wait for it

    def start(self) -> None:
        """Begins to sweep."""
        self._sweeping = asyncio.get_running_loop().create_task(sweep_forever(self._identity, self._audit, self._clock))

    async def stop(self) -> None:
        """Ends the sweeps, and takes no passwords any more."""
        self._passwords.close()
        if self._sweeping is not None:
            await end_tasks([self._sweeping])


def _identity_provider(settings: JwtSettings, monotonic: Clock) -> Issuer:
    """Returns the issuer that the configuration describes."""
    sources: list[FindKeys] = []
    algorithms: set[str] = set()
    if settings.hs256_secret is not None:
        sources.append(only_key("HS256", settings.hs256_secret.get_secret_value().encode()))
        algorithms.add("HS256")
    if settings.public_key is not None:
        algorithm, key = public_key_of_pem(settings.public_key.get_secret_value())
        sources.append(only_key(algorithm, key))
        algorithms.add(algorithm)
    if settings.jwks_url:
        sources.append(Jwks(settings.jwks_url, monotonic).find)
        algorithms |= ALGORITHMS

    async def find(algorithm: str, key_id: str | None) -> list[Any]:
        return [key for source in sources for key in await source(algorithm, key_id)]

    taken = frozenset(algorithms & set(settings.algorithms) if settings.algorithms else algorithms)
    return Issuer(settings.audience, taken, find, settings.leeway, provider_claims(settings))
