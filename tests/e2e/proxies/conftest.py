from __future__ import annotations

from tests.support.garbage import garbage
from tests.support.proxy_site import site

__all__ = ["garbage", "site"]
