"""The library itself: how it is loaded, what it may do, and how it is left."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from dragoman_server.errors import InvalidRequest

_MODE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise the import fetches a table from the network
    "LITELLM_MODE": "PRODUCTION",  # otherwise the import reads a `.env` of the working folder
}


def require(provider: str) -> None:
    """Checks that the library is installed; does not import it.

    Raises:
        InvalidRequest: If it is not.
    """
    if importlib.util.find_spec("litellm") is None:
        message = f"provider {provider}: the dialect litellm needs an extra: pip install 'dragoman[litellm]'"
        raise InvalidRequest(message, field="dialect")


def load() -> Any:
    """Imports the library, which takes seconds, and switches off all that is not calling models. Takes any thread."""
    for name, value in _MODE.items():
        os.environ.setdefault(name, value)
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = False  # nothing is dropped in silence
    litellm.modify_params = False
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # an answer may repeat itself
    return litellm


async def leave() -> None:
    """Closes the library's connections on this loop, and ends its task."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    await GLOBAL_LOGGING_WORKER.stop()
    await close_litellm_async_clients()
