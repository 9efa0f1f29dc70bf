"""Metadata as a wire would deliver it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman.streaming import Metadata

WireMetadata = tuple["Metadatum", ...]

_is_key = re.compile(r"[0-9a-z_.-]+").fullmatch

# These belong to the transport: it drops or overwrites what an application puts there.
_TRANSPORT_KEYS = frozenset(
    {
        "content-length",
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-internal-encoding-request",
        "grpc-message",
        "grpc-server-stats-bin",
        "grpc-status",
        "grpc-tags-bin",
        "grpc-timeout",
        "grpc-trace-bin",
        "te",
        "user-agent",
    }
)


# What nearly every call carries: values are text.
_USUAL_KEYS = frozenset({"authorization", "x-request-id"})


class Metadatum(NamedTuple):
    """One entry. The value is `bytes` if the key ends in `-bin`."""

    key: str
    value: str | bytes


class InvalidMetadata(grpc.aio.InternalError):
    """A key or value that HTTP/2 cannot carry."""


def checked(metadata: Any) -> Metadata:
    """Returns what `to_wire` returns, but usual metadata as they are: `delivered` makes it of them if it is needed.

    Raises:
        InvalidMetadata: If a key or value is illegal.
        TypeError: If a key or value has the wrong type.
        ValueError: If an entry is not a pair.
    """
    if metadata.__class__ is tuple and len(metadata) <= 2:  # so that equal keys are side by side
        for key, value in metadata:
            if key not in _USUAL_KEYS or value.__class__ is not str or not (value.isascii() and value.isprintable()):
                break
        else:
            usual: tuple[tuple[str, str], ...] = metadata
            return usual
    return to_wire(metadata)


def delivered(metadata: Metadata) -> WireMetadata:
    """Returns checked metadata as its receiver sees it."""
    return tuple([Metadatum(key, value) for key, value in metadata])


def to_wire(metadata: Iterable[tuple[str, str | bytes]]) -> WireMetadata:
    """Returns metadata as its receiver sees it: checked, without the transport's keys, equal keys side by side.

    Raises:
        InvalidMetadata: If a key or value is illegal.
        TypeError: If a key or value has the wrong type.
        ValueError: If an entry is not a pair.
    """
    entries: list[Metadatum] = []
    keys: set[str] = set()
    for key, value in metadata:
        if key.__class__ is not str:
            raise TypeError(f"Expected str, not {type(key)}")
        wire_value = _wire_value_of(key)
        if wire_value is None:
            continue
        keys.add(key)
        if wire_value is not _text_value or value.__class__ is not str or not (value.isascii() and value.isprintable()):
            value = wire_value(key, value)
        entries.append(tuple.__new__(Metadatum, (key, value)))  # half the time of Metadatum(...)
    return tuple(entries) if len(keys) == len(entries) else _grouped(entries)


@lru_cache(maxsize=256)  # an application has few keys, and sends them with every call
def _wire_value_of(key: str) -> Callable[[str, object], str | bytes] | None:
    """Returns what checks the values of a key; None if the key is the transport's."""
    if not _is_key(key):
        raise InvalidMetadata(f"Metadata key {key!r} is invalid")
    if key in _TRANSPORT_KEYS:
        return None
    return _binary_value if key.endswith("-bin") else _text_value


def _binary_value(key: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f'Binary metadata key="{key}" expected bytes, got {type(value)}')
    return value


def _text_value(key: str, value: object) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("latin-1")
    elif value is None:
        text = ""
    else:
        raise TypeError(f"Expected str, not {type(value)}")
    if not (text.isascii() and text.isprintable()):
        raise InvalidMetadata(f"Metadata value for key {key!r} is invalid")
    return text


def _grouped(entries: Iterable[Metadatum]) -> WireMetadata:
    groups: dict[str, list[Metadatum]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    return tuple(entry for group in groups.values() for entry in group)


def require_trailing(metadata: object) -> tuple[tuple[str, str | bytes], ...]:
    """Returns trailing metadata as a tuple.

    Raises:
        TypeError: If it is not made of pairs of `str` and `str` or `bytes`.
    """
    if not hasattr(metadata, "__iter__") or isinstance(metadata, dict):
        raise _wrong_trailing(metadata)
    entries = tuple(metadata)
    for entry in entries:
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise _wrong_trailing(metadata)
        if not (isinstance(entry[0], str) and isinstance(entry[1], str | bytes)):
            raise _wrong_trailing(metadata)
    return entries


def _wrong_trailing(metadata: object) -> TypeError:
    return TypeError(f"Invalid trailing metadata type, expected Tuple[Tuple[str, Union[str, bytes]]...]: {metadata}")
