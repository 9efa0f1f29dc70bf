"""What commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys


class CommandError(Exception):
    """A command cannot do its work; the message tells why and what to do. Shown as it is, exit code 1."""


def say(text: str = "") -> None:
    """Writes a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Writes a line beside the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
