"""The names that users of the Python client may rely on. A change here is a change of the public interface."""

from __future__ import annotations

import types

import dragoman_client

PUBLIC = {
    "Accounts",
    "Answer",
    "ChatOptions",
    "Conflict",
    "Conversations",
    "DeadlineExceeded",
    "Dragoman",
    "DragomanClientError",
    "EventsEvicted",
    "Forbidden",
    "InvalidRequest",
    "Keys",
    "Messages",
    "NotFound",
    "RunCancelled",
    "RunFailed",
    "RunStream",
    "Runs",
    "StreamInterrupted",
    "Unauthenticated",
    "Unavailable",
    "Users",
}


def test_the_public_names_are_these() -> None:
    assert set(dragoman_client.__all__) == PUBLIC
    assert list(dragoman_client.__all__) == sorted(dragoman_client.__all__)


def test_whatever_is_not_public_says_so() -> None:
    others = {
        name
        for name, value in vars(dragoman_client).items()
        if name not in PUBLIC and not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert others == set()
