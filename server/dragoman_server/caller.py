"""Who makes a call: passed to every domain method, so that no query can forget the tenant."""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.v1.account_service_pb2 import KeyRole

DEFAULT_ACCOUNT = "default"
"""The one account until tenants exist."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Attributes:
        account_id: The account; every row and run of the caller carries it.
        key_id: The API key.
        role: What the key permits.
    """

    account_id: str
    key_id: str
    role: KeyRole = KeyRole.KEY_ROLE_MEMBER
