"""Prints constraints that pin every direct dependency of the product to the lowest version that pyproject.toml allows.

    python scripts/lowest.py > constraints.txt

The tools of the tests are left alone: their floors are nobody's promise.
"""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?\s*(?P<versions>[^;]*)")


def lowest(requirement: str) -> str | None:
    """Returns the pin of a requirement, or None for the project itself.

    Raises:
        ValueError: If the requirement has no lowest version.
    """
    match = REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    if match["name"] == "dragoman":
        return None
    floor = re.search(r"[>=]=\s*([^,\s]+)", match["versions"])
    if floor is None:
        raise ValueError(f"no lowest version: {requirement!r}")
    return f"{match['name']}=={floor[1]}"


def main() -> None:
    """Runs the command line."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    try:
        print("\n".join(sorted({pin for requirement in requirements if (pin := lowest(requirement))})))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
