"""Where vendors depart from the common form of the dialect, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server departs from the common form.

    Attributes:
        max_tokens_field: The field that limits the tokens of an answer.
    """

    max_tokens_field: str = "max_tokens"


_COMMON = Quirks()

_BY_HOST = {
    "api.openai.com": Quirks(max_tokens_field="max_completion_tokens"),
    "openai.azure.com": Quirks(max_tokens_field="max_completion_tokens"),
}


def quirks_of(host: str) -> Quirks:
    """Returns the quirks of the server with this name, or of the domain that it is in."""
    labels = host.lower().split(".")
    return next(
        (quirks for cut in range(len(labels)) if (quirks := _BY_HOST.get(".".join(labels[cut:]))) is not None), _COMMON
    )
