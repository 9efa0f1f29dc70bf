"""Everything that is stored of an account, as lines of JSON. Hashes of secrets are left out."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as AnyMessage

from dragoman.v1.conversation_service_pb2 import Conversation
from dragoman.v1.message_pb2 import Message
from dragoman.v1.persona_service_pb2 import Persona
from dragoman_server.authority import managed_account
from dragoman_server.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from dragoman_server.accounts.acts import Acts
    from dragoman_server.caller import Caller
    from dragoman_server.store.base import Store

PIECE_BYTES = 64 * 1024
"""About how many bytes are told at a time."""

_HIDDEN = frozenset({"secret_hash", "password_hash", "token_hash"})
_MESSAGES: dict[tuple[str, str], type[AnyMessage]] = {
    ("messages", "body"): Message,
    ("conversations", "labels"): Conversation,
    ("personas", "body"): Persona,
}
"""The columns that hold a message of the contract in its wire form."""


class Exports:
    """Tells everything that is stored of an account."""

    def __init__(self, store: Store, acts: Acts) -> None:
        self._store = store
        self._acts = acts

    async def account(self, caller: Caller, account_id: str = "") -> AsyncGenerator[bytes, None]:
        """Yields pieces of lines, each `{"table": NAME, "row": {COLUMN: VALUE, ...}}`. Needs ADMIN.

        Rows that change meanwhile are told as they were or as they are.

        Raises:
            Forbidden: If the caller may not, or has scopes: an export tells everything.
            NotFound: If there is no such account, or it is another's.
            Unavailable: If the store does not answer.
        """
        account_id = managed_account(caller, account_id)
        if caller.grants.scopes:
            raise Forbidden("an export tells everything of an account; this needs a credential without scopes")
        if await self._store.identity.accounts.get(account_id) is None:
            raise NotFound(f"account {account_id[:64]!r} does not exist")
        await self._store.identity.audit.add(self._acts.entry(caller, account_id, "account.export", account_id))
        piece: list[bytes] = []
        size = 0
        async for table, row in self._store.rows(account_id):
            piece.append(_line(table, row))
            size += len(piece[-1])
            if size >= PIECE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
        if piece:
            yield b"".join(piece)


def _line(table: str, row: Mapping[str, Any]) -> bytes:
    values = {name: _value(table, name, value) for name, value in row.items() if name not in _HIDDEN}
    return json.dumps({"table": table, "row": values}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _value(table: str, name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        kind = _MESSAGES.get((table, name))
        if kind is None:
            return base64.b64encode(value).decode("ascii")
        value = kind.FromString(value)
    if isinstance(value, AnyMessage):
        return MessageToDict(value, preserving_proto_field_name=True)
    return value
