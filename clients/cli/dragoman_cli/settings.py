"""The server's configuration, as a command reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dragoman_cli.output import CommandError
from dragoman_server import configuration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dragoman_server.settings import Settings


def load_settings(config: Path | None, flags: Mapping[str, object]) -> Settings:
    """Reads file, environment and flags.

    Raises:
        CommandError: With every problem, one a line.
    """
    try:
        return configuration.load(config, os.environ, flags)
    except configuration.ConfigurationError as error:
        raise CommandError("\n  ".join(["the configuration cannot be used", *error.problems])) from None


def bootstrap_key() -> str | None:
    """Returns the key that `DRAGOMAN_BOOTSTRAP_KEY` sets.

    Raises:
        CommandError: If it refers to something missing.
    """
    try:
        return configuration.bootstrap_key(os.environ)
    except configuration.ConfigurationError as error:
        raise CommandError(str(error)) from None
