from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.message_pb2 import FilePart, ImagePart, Message, Part, Role, ToolResult
from dragoman_server.errors import InvalidRequest
from dragoman_server.runs.images import Picture, check_images, read_header
from dragoman_server.settings import VisionSettings

SIDES = st.integers(1, 16383)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00;"


def jpeg(width: int, height: int, *, before: int = 3) -> bytes:
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", 12) + b"0123456789" for _ in range(before))
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + segments + b"\xff\xff" + frame[1:] + b"\xff\xd9"


def webp_lossy(width: int, height: int) -> bytes:
    frame = b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I", len(frame) + 12) + b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame


def webp_lossless(width: int, height: int) -> bytes:
    frame = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)
    return b"RIFF" + struct.pack("<I", len(frame) + 12) + b"WEBPVP8L" + struct.pack("<I", len(frame)) + frame


def webp_extended(width: int, height: int) -> bytes:
    frame = b"\x00" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(frame) + 12) + b"WEBPVP8X" + struct.pack("<I", len(frame)) + frame


KINDS = {
    png: "image/png",
    gif: "image/gif",
    jpeg: "image/jpeg",
    webp_lossy: "image/webp",
    webp_lossless: "image/webp",
    webp_extended: "image/webp",
}


def asked(*images: ImagePart) -> list[Message]:
    return [Message(role=Role.ROLE_USER, parts=[Part(image=image) for image in images])]


def inline(data: bytes, media_type: str = "image/png") -> ImagePart:
    return ImagePart(data=data, media_type=media_type)


@pytest.mark.parametrize("make", KINDS)
@given(width=SIDES, height=SIDES)
def test_headers_tell_kind_and_size(make, width: int, height: int) -> None:  # type: ignore[no-untyped-def]
    assert read_header(make(width, height)) == Picture(KINDS[make], width, height)


@pytest.mark.parametrize("make", KINDS)
@given(cut=st.integers(0, 60))
def test_what_is_cut_off_is_no_image_or_whole(make, cut: int) -> None:  # type: ignore[no-untyped-def]
    whole = make(7, 9)
    assert read_header(whole[:cut]) in (None, Picture(KINDS[make], 7, 9))


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"RIFF....WEBP", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
)
def test_no_bytes_break_the_reader(data: bytes, magic: bytes) -> None:
    read_header(magic + data)


@pytest.mark.parametrize("make", KINDS)
def test_good_images_pass(make) -> None:  # type: ignore[no-untyped-def]
    check_images(asked(inline(make(640, 480), KINDS[make])), VisionSettings(), remote=False)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (inline(b""), "no image"),
        (inline(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "no image"),
        (inline(png(3, 3), "image/jpeg"), "but is image/png"),
        (inline(png(3, 3), ""), "says that it is nothing"),
        (inline(png(5000, 3)), "5000 x 3"),
        (inline(png(0, 3)), "0 x 3"),
        (inline(png(3, 3) + b"x" * 2000), "bytes; an image may have 1000"),
        (ImagePart(url="https://example.org/a.png"), "is an address"),
    ],
)
def test_others_are_refused_by_name(image: ImagePart, problem: str) -> None:
    settings = VisionSettings(max_side=4096, max_image_bytes=1000)
    with pytest.raises(InvalidRequest, match=problem) as caught:
        check_images(asked(inline(png(2, 2)), image), settings, remote=False)
    assert caught.value.field == "spec.chat.messages[0].parts[1].image"


def test_count_and_sum_are_bounded() -> None:
    small = inline(png(2, 2))
    check_images(asked(*[small] * 4), VisionSettings(max_images=4), remote=False)
    with pytest.raises(InvalidRequest, match="one image too many"):
        check_images(asked(*[small] * 5), VisionSettings(max_images=4), remote=False)
    with pytest.raises(InvalidRequest, match="bytes of images"):
        check_images(asked(*[small] * 5), VisionSettings(max_total_bytes=4 * len(small.data)), remote=False)


def test_images_of_tool_results_count() -> None:
    result = Part(tool_result=ToolResult(call_id="c", parts=[Part(image=inline(b"nothing"))]))
    with pytest.raises(InvalidRequest) as caught:
        check_images([Message(role=Role.ROLE_TOOL, parts=[result])], VisionSettings(), remote=True)
    assert caught.value.field == "spec.chat.messages[0].parts[0].tool_result.parts[0].image"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/a.png", "ftp://host/a.png", "http://[", "javascript:1"])
def test_addresses_must_be_addresses(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_images(asked(ImagePart(url=url)), VisionSettings(), remote=True)


def test_addresses_pass_where_the_model_takes_them() -> None:
    check_images(asked(ImagePart(url="https://example.org/a.png")), VisionSettings(), remote=True)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (FilePart(data=png(9000, 2), media_type="image/png"), "9000 x 2"),
        (FilePart(data=b"<svg/>", media_type="Image/SVG+xml"), "no image"),
        (FilePart(data=png(2, 2), media_type="application/pdf"), "but is image/png"),
        (FilePart(data=png(2, 2), filename="a.png"), "says that it is nothing"),
        (FilePart(url="https://example.org/a.png", media_type="image/png"), "is an address"),
    ],
)
def test_a_file_that_is_an_image_is_checked_as_one(file: FilePart, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        check_images([Message(role=Role.ROLE_USER, parts=[Part(file=file)])], VisionSettings(), remote=False)
    assert caught.value.field == "spec.chat.messages[0].parts[0].file"


@pytest.mark.parametrize(
    "file",
    [
        FilePart(data=b"%PDF-1.7", media_type="application/pdf"),
        FilePart(data=b"hello"),
        FilePart(file_id="file-1", media_type="image/png"),
        FilePart(url="https://example.org/a.pdf"),
        FilePart(data=png(2, 2), media_type="image/png"),
    ],
)
def test_other_files_pass(file: FilePart) -> None:
    settings = VisionSettings(max_images=1)
    check_images([Message(role=Role.ROLE_USER, parts=[Part(file=file)])], settings, remote=False)
