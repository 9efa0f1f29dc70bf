"""How errors speak of fields: in the words of a dialect, not in those of the contract."""

from __future__ import annotations

import re

_CHAT = "spec.chat."


def renamed(message: str, field: str, name: str) -> str:
    """Returns a message in which a field of the contract goes by its name in a dialect.

    Args:
        message: What is wrong.
        field: The path of the field; not empty.
        name: Its name in the dialect. An empty one leaves the message as it is.
    """
    inner = field.removeprefix(_CHAT)
    if not name or inner == name:
        return message.replace(field, name) if name else message
    # Providers see the chat alone, and speak of fields within it. A bare word may be no more than a word.
    within = inner != field and ("." in inner or "_" in inner)
    path = f"(?:{re.escape(_CHAT)})?{re.escape(inner)}" if within else re.escape(field)
    return re.sub(rf"(?<![\w.]){path}(?!\w)", lambda _: name, message)
