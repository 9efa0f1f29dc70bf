"""Takes the paths of proxied requests apart: which server they name, and the key for it.

Paths are taken as they stand in the request line. Nothing is decoded or normalised before the parts are known, and no
part is decoded twice. Whether a server may be called is for the core to say; what makes no sense here makes none there.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import Upstream
from dragoman_edge.errors import EdgeError

_HTTP = re.compile(r"(https?)://?(?!/)", re.IGNORECASE)
"""How addresses begin; some intermediaries merge the two slashes."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_NO_HOST = re.compile(r"(https?(:|%3a)(/|%2f)*)?", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
"""What a header can carry, without spaces."""


class Task(NamedTuple):
    """What the last segment of a path of the Gemini proxy says.

    Attributes:
        model: The model.
        method: What to do with it.
    """

    model: str
    method: str


def openai_upstream(place: str) -> Upstream:
    """Returns the upstream that a path of the OpenAI proxy names.

    The last segment is the key, what comes before it the address. If the slashes are encoded too, so that nothing comes
    before it but a scheme, the decoded text is split in the same way; its key then has no slash.

    Args:
        place: What stands between `/api/v1/proxy/` and `/chat/completions`, still encoded.

    Raises:
        EdgeError: If it makes no sense. The message repeats nothing of it.
    """
    address, _, key = place.rpartition("/")
    if _NO_HOST.fullmatch(address):
        address, _, key = _decoded(place).rpartition("/")
        address = _once(address)
        if not address:
            raise _refused("is missing, or percent-encoded more than once")
    else:
        address, key = _once(_decoded(address)), _decoded(key)
    check_key(key)
    return Upstream(base_url=_base_url(address), api_key=key, dialect="openai_chat")


def gemini_upstream(place: str, version: str, key: str) -> Upstream:
    """Returns the upstream that a path of the Gemini proxy names.

    Args:
        place: What stands between `/api/v1/proxy/` and the version, still encoded.
        version: The version of the API that the path names.
        key: The key for the upstream; may be empty.

    Raises:
        EdgeError: If it makes no sense. The message repeats nothing of it.
    """
    if key:
        check_key(key)
    base_url = _base_url(_once(_decoded(place)))
    return Upstream(base_url=f"{base_url.removesuffix('/')}/{version}", api_key=key, dialect="gemini")


def task_of(segment: str) -> Task:
    """Takes the last segment of a path of the Gemini proxy apart, for example `gemini-2.5-flash:generateContent`.

    Raises:
        EdgeError: If it is not UTF-8.
    """
    model, _, method = _decoded(segment).rpartition(":")
    return Task(model, method)


def check_key(key: str) -> None:
    """Checks the key for an upstream.

    Raises:
        EdgeError: If there is none, or no header can carry it.
    """
    if not key:
        raise EdgeError("The path names no API key for the upstream server.")
    if not _KEY.fullmatch(key):
        raise EdgeError("The API key for the upstream server is malformed.")


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeError:
        raise _refused("is not valid UTF-8") from None


def _once(address: str) -> str:
    """Returns a decoded address.

    Raises:
        EdgeError: If it was encoded more than once.
    """
    if "%" in address:
        raise _refused("is percent-encoded more than once")
    return address


def _base_url(address: str) -> str:
    """Returns an address with its scheme: `https`, if it has none."""
    if found := _HTTP.match(address):
        return f"{found[1].lower()}://{address[found.end() :]}"
    return address if _SCHEME.match(address) else f"https://{address}"


def _refused(problem: str) -> EdgeError:
    return EdgeError(f"The address of the upstream server {problem}.", reason=Reason.UPSTREAM_NOT_ALLOWED)
