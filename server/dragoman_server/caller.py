"""Who makes a call: passed to every domain method, so that no query can forget the tenant."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
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
        expire_time: When the key stops working, in microseconds since the epoch. None if it does not, and for tokens,
            which who has them gets anew.
    """

    account_id: str
    key_id: str
    role: KeyRole = KeyRole.KEY_ROLE_MEMBER
    user_id: str = ""
    grants: Grants = EVERYTHING
    plan: str = ""
    key_limits: RateLimits | None = field(default=None, compare=False)
    account_limits: RateLimits | None = field(default=None, compare=False)
    expire_time: int | None = None


def permits_model(grants: Grants, model: str) -> bool:
    """Returns whether the caller may ask for a model, or for all that a pattern stands for."""
    return not grants.models or any(_pattern(pattern).fullmatch(model) for pattern in grants.models)


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    """Returns a pattern in which `*` stands for any text, that of other `*` included."""
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)
