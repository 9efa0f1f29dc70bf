"""Who makes a call: passed to every domain method, so that no query can forget the tenant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole

if TYPE_CHECKING:
    from dragoman.v1.account_service_pb2 import RateLimits

DEFAULT_ACCOUNT = "default"
"""The account that every server has."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a caller is restricted to. An empty set restricts nothing.

    Attributes:
        scopes: The scopes that it has; see `dragoman.v1.KeyGrants`.
        models: The models that it may ask for, ids or patterns.
        providers: The providers that may serve it.
    """

    scopes: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    providers: frozenset[str] = frozenset()


EVERYTHING = Grants()
"""No restriction."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Attributes:
        account_id: The account; every row and run of the caller carries it.
        key_id: The API key; empty if the credential is a token.
        role: What the credential permits.
        user_id: The user; empty if the credential is the account's own.
        grants: What the credential is restricted to.
        plan: The plan that the account is subscribed to; empty for none.
        key_limits: The key's own limits, if it has some.
        account_limits: The account's own limits, if it has some.
    """

    account_id: str
    key_id: str
    role: KeyRole = KeyRole.KEY_ROLE_MEMBER
    user_id: str = ""
    grants: Grants = EVERYTHING
    plan: str = ""
    key_limits: RateLimits | None = field(default=None, compare=False)
    account_limits: RateLimits | None = field(default=None, compare=False)
