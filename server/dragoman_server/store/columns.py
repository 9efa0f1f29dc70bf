"""Kinds of columns that databases do not have of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import LargeBinary
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from sqlalchemy import Dialect

MessageT = TypeVar("MessageT", bound="Message")


class Proto(TypeDecorator[MessageT], Generic[MessageT]):
    """A message of the contract, stored in its wire form."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, kind: type[MessageT]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: MessageT | None, dialect: Dialect) -> bytes | None:
        """Returns what is stored."""
        return None if value is None else value.SerializeToString()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> MessageT | None:
        """Returns what was stored."""
        return None if value is None else self.kind.FromString(value)
