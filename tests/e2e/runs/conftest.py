from __future__ import annotations

from tests.support.garbage import garbage

__all__ = ["garbage"]
