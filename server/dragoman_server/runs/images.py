"""Checks the images of a request before any provider sees them: how many, how large, and what they really are.

Only headers are read: type and size in pixels. Nothing is decoded. A file that is an image, by what it says or by what
it is, is checked as one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dragoman.v1.message_pb2 import FilePart, ImagePart, Message, Part
    from dragoman_server.settings import VisionSettings

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG segments that begin with the size of the picture."""
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of JPEG segments without a length."""


class Picture(NamedTuple):
    """What the header of an image tells.

    Attributes:
        media_type: Its media type.
        width: In pixels.
        height: In pixels.
    """

    media_type: str
    width: int
    height: int


def check_images(messages: Iterable[Message], settings: VisionSettings, *, remote: bool) -> None:
    """Checks all images of a conversation, those in tool results included.

    Args:
        messages: The conversation.
        settings: What is taken.
        remote: Whether images may be given by their address.

    Raises:
        InvalidRequest: At the first image that is not taken; `field` names it.
    """
    count = total = 0
    for field, image in _images(messages):
        count += 1
        if count > settings.max_images:
            raise _refused(field, f"is one image too many: a request may have {settings.max_images}")
        if image.WhichOneof("source") == "url":
            _check_address(field, image.url, remote=remote)
            continue
        total += len(image.data)
        if len(image.data) > settings.max_image_bytes:
            raise _refused(field, f"has {len(image.data)} bytes; an image may have {settings.max_image_bytes}")
        if total > settings.max_total_bytes:
            raise _refused(field, f"makes it {total} bytes of images; a request may have {settings.max_total_bytes}")
        _check_picture(field, image, settings)


def read_header(data: bytes) -> Picture | None:
    """Returns what kind of image the bytes are; None if they are none that is known, or are cut off."""
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return Picture("image/gif", *struct.unpack_from("<HH", data, 6))
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
    except (struct.error, IndexError):  # cut off
        return None
    return None


def _images(messages: Iterable[Message]) -> Iterator[tuple[str, ImagePart | FilePart]]:
    for number, message in enumerate(messages):
        yield from _images_of(message.parts, f"spec.chat.messages[{number}].parts")


def _images_of(parts: Iterable[Part], path: str) -> Iterator[tuple[str, ImagePart | FilePart]]:
    for position, part in enumerate(parts):
        kind = part.WhichOneof("kind")
        if kind == "image":
            yield f"{path}[{position}].image", part.image
        elif kind == "file" and _is_image(part.file):
            yield f"{path}[{position}].file", part.file
        elif kind == "tool_result":
            yield from _images_of(part.tool_result.parts, f"{path}[{position}].tool_result.parts")


def _is_image(file: FilePart) -> bool:
    """Whether a file that is here or at an address is an image; what a provider keeps, it has checked itself."""
    if file.HasField("file_id"):
        return False
    return file.media_type.strip().lower().startswith("image/") or read_header(file.data) is not None


def _check_address(field: str, url: str, *, remote: bool) -> None:
    if not remote:
        raise _refused(field, "is an address; this model takes images only as data")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _refused(field, "is not a valid address") from error
    if parts.scheme not in ("http", "https", "gs") or not parts.netloc:
        raise _refused(field, "must be an http or https address, or inline data")


def _check_picture(field: str, image: ImagePart | FilePart, settings: VisionSettings) -> None:
    picture = read_header(image.data)
    if picture is None or picture.media_type not in settings.media_types:
        kinds = ", ".join(settings.media_types)
        raise _refused(field, f"is no image of a kind that is taken ({kinds})")
    said = "image/jpeg" if image.media_type == "image/jpg" else image.media_type
    if said != picture.media_type:
        raise _refused(field, f"says that it is {image.media_type or 'nothing'}, but is {picture.media_type}")
    if not 0 < picture.width <= settings.max_side or not 0 < picture.height <= settings.max_side:
        limit = settings.max_side
        raise _refused(field, f"has {picture.width} x {picture.height} pixels; a side may have {limit}")


def _refused(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)


def _read_png(data: bytes) -> Picture | None:
    if data[12:16] != b"IHDR":
        return None
    return Picture("image/png", *struct.unpack_from(">II", data, 16))


def _read_webp(data: bytes) -> Picture | None:
    match data[12:16]:
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return Picture("image/webp", width & 0x3FFF, height & 0x3FFF)
        case b"VP8L" if data[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", data, 21)
            return Picture("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
            return Picture("image/webp", width, height) if len(data) >= 30 else None
    return None


def _read_jpeg(data: bytes) -> Picture | None:
    """Walks over the segments to the one that begins the picture."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _JPEG_BARE:
            at += 2
            continue
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Picture("image/jpeg", width, height)
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            return None
        at += 2 + length
    return None
