"""What callers may give: nobody gives more than they have themselves, or changes who has a role above theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.caller import EVERYTHING, Grants, permits_model
from dragoman_server.errors import Forbidden, InvalidRequest

if TYPE_CHECKING:
    from dragoman_server.caller import Caller
    from dragoman_server.store.identity.records import KeyRecord

SCOPES = frozenset({"runs", "embeddings", "models", "conversations", "usage", "credits", "account"})
"""What keys and tokens can be restricted to; each also with `.read` behind it."""

MAX_LIST = 100
"""Most scopes, models or providers of a key."""

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_runs")
"""The limits that a key or an account can have."""

NO_BOUND = -1
"""The limit that is none. What is 0 is left to the server."""


def granted_role(caller: Caller, role: KeyRole) -> KeyRole:
    """Returns a role that a caller may give; unspecified means MEMBER.

    Raises:
        InvalidRequest: If there is no such role.
        Forbidden: If it is more than the caller has.
    """
    if role not in KeyRole.values():
        raise InvalidRequest(f"role {role} does not exist", field="role")
    if role > caller.role:
        raise Forbidden(f"nobody grants more than they have: {KeyRole.Name(role)} is more than your role")
    return role or KeyRole.KEY_ROLE_MEMBER


def require_no_more(caller: Caller, role: KeyRole, whose: str) -> None:
    """Does nothing if somebody's role is no more than the caller's, who means to change what they have.

    Raises:
        Forbidden: If it is more.
    """
    if role > caller.role:
        raise Forbidden(f"the {whose} has a role that is more than yours")


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a credential goes.

    Attributes:
        role: What it permits.
        grants: What it is restricted to.
        limits: Its own `LIMITS`; what is 0 is left to the server.
        expire_time: When it ends, if ever.
    """

    role: KeyRole = KeyRole.KEY_ROLE_UNSPECIFIED
    grants: Grants = EVERYTHING
    limits: tuple[int, ...] = (0,) * len(LIMITS)
    expire_time: int | None = None

    def beyond(self, other: Reach) -> list[str]:
        """Returns what it goes further in, by the names of the contract; empty if it is within the other."""
        mine, its = self.grants, other.grants
        within = {
            "role": self.role <= other.role,
            "grants.scopes": not its.scopes
            or (bool(mine.scopes) and all(has_scope(its.scopes, scope) for scope in mine.scopes)),
            "grants.models": not its.models
            or (bool(mine.models) and all(permits_model(its, model) for model in mine.models)),
            "grants.providers": not its.providers or (bool(mine.providers) and mine.providers <= its.providers),
        }
        for name, limit, most in zip(LIMITS, self.limits, other.limits, strict=True):
            # What the server's own limit, 0, lets through is not known.
            within[f"grants.limits.{name}"] = limit == most or most == NO_BOUND or 0 < limit < most
        end = other.expire_time
        within["expire_time"] = end is None or (self.expire_time is not None and self.expire_time <= end)
        return [name for name, holds in within.items() if not holds]


def reach_of_key(key: KeyRecord) -> Reach:
    """Returns how far a key goes while it is not disabled, its user and its account aside."""
    if (grants := key.grants) is None:
        return Reach(key.role, expire_time=key.expire_time)
    restrictions = Grants(frozenset(grants.scopes), tuple(grants.models), frozenset(grants.providers))
    limits = tuple(getattr(grants.limits, name) for name in LIMITS)
    return Reach(key.role, restrictions, limits, key.expire_time)


def reach_of_caller(caller: Caller) -> Reach:
    """Returns how far a caller's credential goes.

    Limits that are the server's are not its own: they are for keys that nobody gave others.
    """
    limits = tuple(getattr(caller.key_limits, name, 0) or NO_BOUND for name in LIMITS)
    return Reach(caller.role, caller.grants, limits, caller.expire_time)


def require_within(caller: Caller, reach: Reach) -> None:
    """Does nothing if something that a caller gives goes no further than their own credential.

    Raises:
        Forbidden: If it does; metadata has all that it goes further in, as `wider`.
    """
    if wider := reach.beyond(reach_of_caller(caller)):
        what = f"this would go further than your own credential in its {', '.join(wider)}"
        raise Forbidden(f"nobody gives more than they have: {what}", metadata={"wider": " ".join(wider)})


def require_unrestricted(caller: Caller) -> None:
    """Does nothing if the caller is restricted in nothing: who logs in as a user is not either.

    Raises:
        Forbidden: If they are.
    """
    if restricted := Reach().beyond(reach_of_caller(caller)):
        what = f"your own credential is, in its {', '.join(restricted)}"
        raise Forbidden(f"what users do is not restricted, and {what}", metadata={"restricted": " ".join(restricted)})


def has_scope(scopes: frozenset[str], scope: str) -> bool:
    """Tells whether scopes hold one, such as `runs` or `runs.read`; the whole one holds reading."""
    return scope in scopes or scope.removesuffix(".read") in scopes
