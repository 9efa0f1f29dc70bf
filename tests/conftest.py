from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

# An example may take as long as it takes: machines are busy, and time is no property of what is tested.
settings.register_profile("dragoman", deadline=None)
settings.load_profile("dragoman")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes what a test wrote fit for UTF-8: some log broken texts on purpose, and reports travel between processes."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
