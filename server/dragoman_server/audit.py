"""The audit log's entries: who did what to what, and when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dragoman_server.ids import new_id
from dragoman_server.store.identity.records import AuditRecord

if TYPE_CHECKING:
    from dragoman_server.caller import Caller


def audit_entry(caller: Caller, account_id: str, now: int, action: str, target: str, **details: object) -> AuditRecord:
    """Returns the entry that tells of an administrator's act; it is to be written in the transaction of the act.

    Args:
        caller: Who did it.
        account_id: The account that it was done to.
        now: When, in microseconds since the epoch.
        action: What was done, as `key.create`.
        target: The id of what it was done to.
        details: What else is to be known; no secrets.
    """
    return AuditRecord(
        id=new_id("aud"),
        account_id=account_id,
        create_time=now,
        actor=actor(caller),
        action=action,
        target=target,
        details=json.dumps(details, ensure_ascii=False),
    )


def actor(caller: Caller) -> str:
    """Returns who a caller is, for the audit log."""
    return caller.key_id or caller.user_id or "operator"
