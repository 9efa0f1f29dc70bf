"""What callers may grant: nobody grants, changes or takes away what is more than they have themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.errors import Forbidden, InvalidRequest

if TYPE_CHECKING:
    from dragoman_server.caller import Caller, Grants

SCOPES = frozenset({"runs", "embeddings", "models", "conversations", "usage", "credits", "account"})
"""What keys and tokens can be restricted to; each also with `.read` behind it."""

MAX_LIST = 100
"""Most scopes, models or providers of a key."""


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


def require_within(caller: Caller, scopes: frozenset[str], models: tuple[str, ...], providers: frozenset[str]) -> None:
    """Does nothing if restrictions leave no more than the caller has. Limits are not compared: the account's hold too.

    Raises:
        Forbidden: If they leave more.
    """
    own: Grants = caller.grants
    wider = []
    if own.scopes and not (scopes and all(has_scope(own.scopes, scope) for scope in scopes)):
        wider.append("scopes")
    if own.models and not (models and set(models) <= set(own.models)):
        wider.append("models")
    if own.providers and not (providers and providers <= own.providers):
        wider.append("providers")
    if wider:
        raise Forbidden(f"nobody grants more than they have: your own credential is restricted in its {wider[0]}")


def require_unrestricted(caller: Caller) -> None:
    """Does nothing if the caller is restricted in nothing: who logs in as a user is not either.

    Raises:
        Forbidden: If they are.
    """
    require_within(caller, frozenset(), (), frozenset())


def has_scope(scopes: frozenset[str], scope: str) -> bool:
    """Tells whether scopes hold one, such as `runs` or `runs.read`; the whole one holds reading."""
    return scope in scopes or scope.removesuffix(".read") in scopes
