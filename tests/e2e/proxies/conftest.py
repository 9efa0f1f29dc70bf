from __future__ import annotations

from tests.support.proxy_site import site

__all__ = ["site"]
