"""Whose things a caller may see and manage, by their role. What belongs to others does not exist.

MEMBER manages nothing but sees what is theirs; ADMIN manages the own account; OPERATOR all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from dragoman_server.caller import Caller


def managed_account(caller: Caller, asked: str) -> str:
    """Returns the account that a caller means to manage: the one asked for, or their own.

    Raises:
        Forbidden: If the caller manages nothing.
        NotFound: If it is another's.
    """
    require(caller, KeyRole.KEY_ROLE_ADMIN)
    return seen_account(caller, asked)


def seen_account(caller: Caller, asked: str, field: str = "") -> str:
    """Returns the account that a caller means to look at: the one asked for, or their own.

    Args:
        caller: Who asks.
        asked: The account; empty for their own.
        field: Where the request names it.

    Raises:
        NotFound: If it is another's.
    """
    if asked and asked != caller.account_id and caller.role != KeyRole.KEY_ROLE_OPERATOR:
        raise NotFound(f"account {asked[:64]!r} does not exist", field=field)
    return asked or caller.account_id


def require(caller: Caller, role: KeyRole) -> None:
    """Does nothing if the caller has the role.

    Raises:
        Forbidden: If not.
    """
    if caller.role < role:
        raise Forbidden(f"this needs the role {KeyRole.Name(role).removeprefix('KEY_ROLE_')}")
