"""Marks signatures with whose they are.

A signature proves to a provider that thoughts or calls are its own; most refuse a request that brings another's. It
comes back with the conversation, which by then another provider may have to answer. So it is marked as it is read, and
written without the mark to the same provider only. To everybody else it is as opaque as it always was.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman.v1.run_pb2 import ChatSpec

_ANY_MARK = re.compile(rb"~[^~]{1,255}~")


def mark_of(name: str) -> bytes:
    """Returns the mark of whoever has this name; it goes before the signature."""
    return b"~%b~" % name.encode()


def unmarked(signature: bytes, mark: bytes) -> bytes:
    """Returns a signature as its provider made it; nothing if it has another mark.

    One without a mark did not come by here: the client has it from the provider itself, and is believed.
    """
    if signature.startswith(mark):
        return signature[len(mark) :]
    return b"" if _ANY_MARK.match(signature) else signature


def keep_own(spec: ChatSpec, mark: bytes) -> None:
    """Takes the marks off a conversation, and other providers' signatures out of it, with thoughts that they hide."""
    for message in spec.messages:
        for index in reversed(range(len(message.parts))):
            part = message.parts[index]
            for signed in (part.reasoning, part.tool_call):
                if signed.signature:
                    signed.signature = unmarked(signed.signature, mark)
            if part.reasoning.redacted and not part.reasoning.signature:
                del message.parts[index]
