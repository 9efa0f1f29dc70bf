"""The provider of the LiteLLM library, in an environment of its own: the library holds other packages back."""

from __future__ import annotations

import os
import tomllib

import pytest

from tests.support.toolchains import ROOT, python_with, run

pytestmark = pytest.mark.timeout(900)  # the first run installs

WARNINGS = (
    "Item",  # ... on TypedDict class ...
    "Accessing the 'model_computed_fields' attribute on the instance",
    "Accessing the 'model_fields' attribute on the instance",
)
"""What the library's use of pydantic makes that say."""


def requirements() -> list[str]:
    """What the server, its extra and the tests of providers need."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["server"], *extras["litellm"]]
    tools = ("hypothesis", "pytest", "jsonschema")
    return needed + [entry for entry in project["dependency-groups"]["test"] if entry.startswith(tools)]


def test_the_provider_passes_its_suite_where_the_library_is() -> None:
    python = python_with(*requirements())
    paths = [ROOT / folder for folder in ("proto", "server", "edge", "clients/python", "clients/cli")]
    filters = [word for warning in WARNINGS for word in ("-W", f"ignore:{warning}")]
    passed = run(
        [
            python,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", *filters),
            *("tests/conformance/providers", "tests/unit/providers/test_litellm.py", "-k", "litellm"),
        ],
        environ={"PYTHONPATH": os.pathsep.join(map(str, paths))},
        timeout=600,
    )
    assert " passed" in passed
    assert " failed" not in passed
