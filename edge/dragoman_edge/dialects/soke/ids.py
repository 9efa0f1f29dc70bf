"""Ids as the dialect has them: GUIDs, made of those of the contract."""

from __future__ import annotations

import re

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def guid_of(name: str) -> str:
    """Returns the GUID in an id of the contract, for example in `conv_0192f0c1…`."""
    digits = name.rpartition("_")[2]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def completion_id(run_id: str) -> str:
    """Returns the id of a run's completion."""
    return f"chatcmpl-{guid_of(run_id)}"


def conversation_of(guid: str) -> str:
    """Returns the id of a conversation in the contract.

    Raises:
        EdgeError: If this is no GUID, so that there can be none.
    """
    if not _GUID.fullmatch(guid):
        raise EdgeError(
            f"The conversation '{guid[:64]}' does not exist.", reason=Reason.NOT_FOUND, param="conversationId"
        )
    return f"conv_{guid.replace('-', '').lower()}"
