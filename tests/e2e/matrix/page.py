"""The matrix as a page of the documentation; `make gen` writes it."""

from __future__ import annotations

from tests.e2e.matrix.features import (
    BACKENDS,
    CLIENT_LIMITS,
    CLIENTS,
    FEATURES,
    LIMITS,
    TROUBLES,
    Absent,
    Emulated,
    Limit,
    Refused,
)


class _Notes:
    """Numbers what is said below a table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"<sup>{self.texts.index(text) + 1}</sup>"


def page() -> str:
    """Returns the tables in Markdown."""
    notes = _Notes()
    rows = []
    for name, feature in FEATURES.items():
        marks = [notes.mark(f"{CLIENTS[client]}: {CLIENT_LIMITS[name, client].why}.") for client in _limited(name)]
        cells = [_cell(LIMITS.get((name, backend)), notes) for backend in BACKENDS]
        rows.append([feature.title + "".join(marks), *cells])
    lines = [*_table(["", *BACKENDS.values()], rows), ""]
    lines += [f"{number}. {text}" for number, text in enumerate(notes.texts, 1)]
    failures = [[what, f"`{reason}`"] for what, reason in TROUBLES.values()]
    return "\n".join([*lines, "", *_table(["what goes wrong behind the server", "reason"], failures)])


def _limited(feature: str) -> list[str]:
    return [client for client in CLIENTS if (feature, client) in CLIENT_LIMITS]


def _cell(limit: Limit | None, notes: _Notes) -> str:
    match limit:
        case Refused(field):
            return "refused" + notes.mark(f"400, `UNSUPPORTED_FEATURE`, naming `{field}` in the words of the dialect.")
        case Emulated():
            return "emulated" + notes.mark("The server asks in words and validates; `x-dragoman-emulated` tells.")
        case Absent(why):
            return "—" + notes.mark(f"{why[0].upper()}{why[1:]}.")
    return "yes"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
