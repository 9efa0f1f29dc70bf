from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_edge.http.errors import BodyError, HttpError
from dragoman_edge.http.limits import Limits
from dragoman_edge.http.parser import RequestParser

LIMITS = Limits()


@dataclass
class Seen:
    """What a request was parsed to."""

    method: str
    target: str
    minor: int
    fields: list[tuple[str, str]]
    body: bytes
    keep_alive: bool


def parse(*pieces: bytes, limits: Limits = LIMITS) -> list[Seen]:
    """Returns the requests in the pieces, each taken as soon as it is complete."""
    parser, seen, rest = RequestParser(limits), [], b""
    for piece in pieces:
        rest += piece
        while True:
            rest = parser.feed(rest)
            request = parser.request
            if request is None or not request.body.complete:
                assert rest == b""
                break
            body = request.body.take()
            seen.append(
                Seen(
                    request.method,
                    request.head.raw_target,
                    request.head.minor,
                    request.fields(),
                    body,
                    request.head.keep_alive,
                )
            )
            parser.request = None
    return seen


def one(head: str, body: bytes = b"") -> Seen:
    (seen,) = parse(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return seen


TOKENS = st.text("abcXYZ019-_!#", min_size=1, max_size=8)
VALUES = st.text('abc XYZ019/:;,=\t"é', max_size=12).map(lambda text: text.strip(" \t"))
NAMES = TOKENS.filter(lambda name: name.lower() not in {"host", "connection", "upgrade", "expect"})
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
BODIES = st.binary(max_size=40) | st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"x"]), max_size=20).map(
    b"".join
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Seen]:
    """A request, as it is sent and as it must be read."""
    method = draw(st.sampled_from(["GET", "POST", "DELETE", "OPTIONS"]))
    target = "/" + draw(st.text("abc/?&=%20.", max_size=10))
    fields = [("Host", "x"), *draw(HEADERS)]
    body = b""
    framing = draw(st.sampled_from(["none", "length", "chunks", "upgrade"]))
    wire = b""
    if framing in ("length", "upgrade"):
        wire = body = draw(BODIES)
        fields.append(("Content-Length", str(len(body))))
    elif framing == "chunks":
        pieces = draw(st.lists(BODIES.filter(bool), max_size=4))
        extension = draw(st.sampled_from([b"", b";a=b"]))
        body = b"".join(pieces)
        wire = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
        wire += draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nTrailer: a\r\n\r\n"]))
        fields.append(("Transfer-Encoding", "chunked"))
    if framing == "upgrade":
        fields += [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    return head.encode() + wire, Seen(method, target, 1, fields, body, keep_alive=True)


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_any_split_of_the_bytes_gives_the_same_requests(sent: list[tuple[bytes, Seen]], data: st.DataObject) -> None:
    wire = b"".join(one for one, _ in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    expected = [seen for _, seen in sent]
    assert parse(*pieces) == expected
    assert parse(*(bytes([byte]) for byte in wire)) == expected


@given(st.binary(max_size=200), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n"]))
def test_any_bytes_are_read_or_refused(rest: bytes, start: bytes) -> None:
    with suppress(HttpError):
        parse(start + rest)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: x\r\n\r\n",
    "two hosts in one": b"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n",
    "a path for a host": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a user before the host": b"GET / HTTP/1.1\r\nHost: u@x\r\n\r\n",
    "folded header": GET + b"A: b\r\n c\r\n\r\n",
    "folded first header": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "line feeds only": b"GET / HTTP/1.1\nHost: x\n\n",
    "a line feed in the head": GET + b"A: b\nB: c\r\n\r\n",
    "a line feed at the end": GET + b"A: b\r\n\n",
    "a carriage return in a value": GET + b"A: b\rB: c\r\n\r\n",
    "space before the colon": GET + b"A : b\r\n\r\n",
    "tab before the colon": GET + b"A\t: b\r\n\r\n",
    "space in a name": GET + b"A b: c\r\n\r\n",
    "empty name": GET + b": b\r\n\r\n",
    "no colon": GET + b"Abc\r\n\r\n",
    "a name beyond ASCII": GET + b"\xc3\xa4: b\r\n\r\n",
    "NUL in a value": GET + b"A: b\0c\r\n\r\n",
    "control in a value": GET + b"A: b\x01c\r\n\r\n",
    "DEL in a value": GET + b"A: b\x7fc\r\n\r\n",
    "control in the target": b"GET /a\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces in the request line": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n",
    "lower case": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "length twice, differing": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length twice, the same": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "length as a list": POST + b"Content-Length: 2, 2\r\n\r\nab",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\nab",
    "negative length": POST + b"Content-Length: -2\r\n\r\nab",
    "hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nab",
    "length with a space": POST + b"Content-Length: 1 2\r\n\r\nab",
    "empty length": POST + b"Content-Length:\r\n\r\nab",
    "length beyond all": POST + b"Content-Length: 99999999999999999999999\r\n\r\nab",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "coding twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding hidden by another": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding with a tab": POST + b"Transfer-Encoding:\tchunked\t\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity coding": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "codings in the wrong order": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "empty coding": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size that is none": CHUNKS + b"zz\r\n",
    "chunk size with a sign": CHUNKS + b"+2\r\nab\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKS + b"0x2\r\nab\r\n0\r\n\r\n",
    "chunk size with a space": CHUNKS + b"2 \r\nab\r\n0\r\n\r\n",
    "chunk size beyond all": CHUNKS + b"fffffffffffffffff\r\nab\r\n0\r\n\r\n",
    "chunk size before a line feed": CHUNKS + b"2\nab\r\n0\r\n\r\n",
    "chunk extension before a line feed": CHUNKS + b"2;a\nab\r\n0\r\n\r\n",
    "chunk extension with a quoted line break": CHUNKS + b'2;a="b\r\nc"\r\nab\r\n0\r\n\r\n',
    "chunk without its line break": CHUNKS + b"2\r\nab0\r\n\r\n",
    "chunk longer than its size": CHUNKS + b"2\r\nabc\r\n0\r\n\r\n",
    "length in a trailer": CHUNKS + b"0\r\nContent-Length: 5\r\n\r\n",
    "folded trailer": CHUNKS + b"0\r\nA: b\r\n c\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_what_could_be_read_in_two_ways_is_refused(wire: bytes) -> None:
    with pytest.raises(HttpError) as whole:
        parse(wire)
    assert whole.value.status == 400
    with pytest.raises(HttpError) as bytewise:
        parse(*(bytes([byte]) for byte in wire))
    assert bytewise.value.status == 400


@pytest.mark.parametrize("wire", [CHUNKS + b"zz\r\n", CHUNKS + b"2\r\nabc\r\n0\r\n\r\n"])
def test_a_bad_body_is_told_from_a_bad_head(wire: bytes) -> None:
    with pytest.raises(BodyError):
        parse(wire)


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\n", False),
        ("1.1", "Connection: keep-alive, CLOSE\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive\n", True),
    ],
)
def test_whether_a_connection_is_used_again(version: str, connection: str, keep_alive: bool) -> None:
    assert one(f"GET / HTTP/{version}\n{connection}Host: x").keep_alive is keep_alive


def test_headers() -> None:
    parser = RequestParser(LIMITS)
    parser.feed(GET + b"X-A: 1\r\nEmpty:\r\nx-a: 2 \t\r\nX-B: \xff\xc3\xa9\r\nX-A:3\r\n\r\n")
    request = parser.request
    assert request is not None
    assert request.headers == {"host": "x", "x-a": "1", "empty": "", "x-b": "\udcffé"}
    assert request.all_values("x-a") == ["1", "2", "3"]
    assert request.all_values("empty") == [""]
    assert request.all_values("x-b") == ["\udcffé"]
    assert request.all_values("x-c") == []
    assert request.fields()[1:] == [("X-A", "1"), ("Empty", ""), ("x-a", "2"), ("X-B", "\udcffé"), ("X-A", "3")]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("//a//b?c?d", "//a//b", "c?d"),
        ("/a%2Fb?", "/a%2Fb", ""),
        ("http://h/a?b", "/a", "b"),
        ("HTTPS://h:1//a", "//a", ""),
        ("http://[::1]:8080/a", "/a", ""),
        ("http://h", "/", ""),
        ("http://h?b", "/", "b"),
        ("*", "*", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    parser = RequestParser(LIMITS)
    parser.feed(f"OPTIONS {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    request = parser.request
    assert request is not None
    assert (request.head.raw_target, request.path, request.query) == (target, path, query)


def test_empty_lines_before_a_request_are_skipped() -> None:
    assert len(parse(b"\r\n\r\n" + GET + b"\r\n\r\n\r\n" + GET + b"\r\n")) == 2


def test_what_follows_a_request_to_connect_is_not_read() -> None:
    parser = RequestParser(LIMITS)
    parser.feed(b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n")
    request = parser.request
    assert request is not None
    assert (request.method, request.path, request.head.keep_alive) == ("CONNECT", "h:443", False)
    parser.request = None
    parser.feed(GET + b"\r\n")
    assert parser.request is None


def test_trailers_are_not_headers_of_the_next_request() -> None:
    _, second = parse(CHUNKS + b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + GET + b"\r\n")
    assert second.fields == [("Host", "x")]


class TestLimits:
    @pytest.mark.parametrize("bytewise", [False, True])
    @pytest.mark.parametrize(
        ("wire", "fits"),
        [
            (GET + b"A: " + b"x" * 97 + b"\r\n\r\n", True),
            (GET + b"A: " + b"x" * 98 + b"\r\n\r\n", False),
            (b"GET /" + b"x" * 86 + b" HTTP/1.1\r\nHost: x\r\n\r\n", True),
            (b"GET /" + b"x" * 87 + b" HTTP/1.1\r\nHost: x\r\n\r\n", False),
            (GET + b"A: b\r\n" * 4 + b"\r\n", True),
            (GET + b"A: b\r\n" * 5 + b"\r\n", False),
            (GET + (b"A: " + b"x" * 51 + b"\r\n") * 3 + b"\r\n", True),
            (GET + (b"A: " + b"x" * 52 + b"\r\n") * 3 + b"\r\n", False),
            (GET + b"A: " + b"x" * 1_000_000, False),
            (b"\r\n" * 1000, False),
        ],
    )
    def test_heads(self, wire: bytes, fits: bool, bytewise: bool) -> None:
        limits = replace(LIMITS, field=100, head=len(GET) + 3 * 56 + 2, fields=5)
        pieces = [bytes([byte]) for byte in wire] if bytewise else [wire]
        if fits:
            assert len(parse(*pieces, limits=limits)) == 1
        else:
            with pytest.raises(HttpError) as caught:
                parse(*pieces, limits=limits)
            assert (caught.value.status, caught.value.code) == (431, "header_too_large")

    @pytest.mark.parametrize(
        "endless", [b"1;" + b"x" * 1000, b"0\r\nA: " + b"x" * 1000, b"0\r\n" + b"A: b\r\n" * 200, b"0" * 1000]
    )
    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_the_framing_of_bodies(self, endless: bytes, size: int) -> None:
        limits = replace(LIMITS, head=500)
        pieces = [endless[start : start + size] for start in range(0, len(endless), size)]
        with pytest.raises(BodyError):
            parse(CHUNKS, b"1\r\nx\r\n", *pieces, limits=limits)

    def test_small_chunks_are_no_framing_without_end(self) -> None:
        wire = b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
        (seen,) = parse(CHUNKS, *(bytes([byte]) for byte in wire), limits=replace(LIMITS, head=500))
        assert seen.body == b"x" * 1000


def test_requests_beyond_the_first_stay_bytes() -> None:
    parser, many = RequestParser(LIMITS), (GET + b"\r\n") * 1000
    calls: list[Any] = []
    first = len(GET) + 2
    for number in range(1, 4):
        rest = parser.feed(many)
        calls.append(parser.request)
        assert len(rest) == 999 * first, number
        parser.request = None
    assert len(set(map(id, calls))) == 3


KNOWN = [
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nAccept: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:%d \r\nAccept: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\nAccept: b\r\n\r\n",
    b"POST /b HTTP/1.1\r\ncontent-length: 0%d\r\nHost: x\r\nX-Content-Length: 7\r\nx-content-length: 8\r\n\r\n",
    b"POST /a HTTP/1.0\r\nX: content-length: 5\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n",
    b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: %d\r\n\r\n",
]


@given(st.lists(st.tuples(st.sampled_from(KNOWN), st.integers(0, 12)), min_size=2, max_size=5))
def test_a_head_that_came_before_says_what_it_says_on_a_new_connection(heads: list[tuple[bytes, int]]) -> None:
    wires = [head % size + b"x" * size for head, size in heads]
    on_one = RequestParser(LIMITS)
    for wire in wires:
        assert on_one.feed(wire) == b""
        again, alone = on_one.request, RequestParser(LIMITS)
        assert alone.feed(wire) == b""
        request = alone.request
        assert again is not None
        assert request is not None
        assert again.headers == request.headers
        assert again.fields() == request.fields()
        assert (again.method, again.path, again.head.minor) == (request.method, request.path, request.head.minor)
        assert (again.head.keep_alive, again.head.repeats) == (request.head.keep_alive, request.head.repeats)
        assert again.body.declared == request.body.declared
        assert again.body.take() == request.body.take()
        on_one.request = None
        if not again.head.keep_alive:
            return


@pytest.mark.parametrize("number", [b"+5", b"5_0", b"5,5", b"0x5", b"", b"5\r\nContent-Length: 5", b"\xb2"])
def test_a_known_head_with_another_number_is_checked_like_any_other(number: bytes) -> None:
    parser, head = RequestParser(LIMITS), b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nAccept: a\r\n\r\n"
    parser.feed(head % b"5" + b"12345")
    parser.request = None
    with pytest.raises(HttpError):
        parser.feed(head % number)


def repeatable(wire: bytes, second: bytes) -> RequestParser:
    """Returns a parser that has read one request, with a second one in its hands or not, if that repeats the first."""
    parser = RequestParser(LIMITS)
    assert parser.feed(wire) == b""
    assert parser.request is not None
    assert parser.request.body.complete
    parser.request = None
    parser.repeated(second)
    return parser


@given(
    st.tuples(st.sampled_from(KNOWN), st.integers(0, 120)),
    st.tuples(st.sampled_from(KNOWN), st.integers(0, 120)),
    st.integers(-2, 2),
    st.data(),
)
def test_what_repeats_a_request_is_what_parsing_it_gives(
    one: tuple[bytes, int], other: tuple[bytes, int], off: int, data: st.DataObject
) -> None:
    """Whatever the bytes are, taking them for a repetition gives what llhttp makes of them, or is left to it."""
    head, size = one
    first = head % size + b"x" * size
    wire = bytearray(other[0] % other[1] + b"y" * max(other[1] + off, 0))
    if data.draw(st.booleans()):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.sampled_from(b"0158 :xA-\r\n"))
    second = bytes(wire)
    try:
        (expected,) = parse(second)
    except (HttpError, ValueError):  # it is none, or not one
        expected = None
    request = repeatable(first, second).request
    if request is not None:
        assert expected is not None
        assert request.body.complete
        seen = (request.method, request.head.raw_target, request.head.minor, request.fields(), request.body.take())
        assert seen == (expected.method, expected.target, expected.minor, expected.fields, expected.body)
        assert expected.keep_alive


HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\nContent-Length: %b\r\n\r\n"


@pytest.mark.parametrize("size", [10, 12, 99])
def test_a_request_that_repeats_the_last_one_need_not_be_parsed(size: int) -> None:
    parser = repeatable(HEAD % b"42" + b"x" * 42, HEAD % str(size).encode() + b"y" * size)
    request = parser.request
    assert request is not None
    assert request.body.take() == b"y" * size
    parser.request = None
    parser.feed(HEAD % b"5" + b"12345" + GET)  # llhttp goes on as if it had seen it
    last = parser.request
    assert last is not None
    assert last.body.take() == b"12345"


@pytest.mark.parametrize(
    "second",
    [
        HEAD % b"42" + b"x" * 41,
        HEAD % b"42" + b"x" * 43,
        HEAD % b"042" + b"x" * 42,
        HEAD % b"+2" + b"x" * 2,
        HEAD % b"-2",
        HEAD % b" 2" + b"x" * 2,
        HEAD % b"2 " + b"x" * 2,
        HEAD % b"4_2" + b"x" * 42,
        HEAD % b"42, 42" + b"x" * 42,
        HEAD % b"99999999999999999999" + b"x" * 42,
        (HEAD % b"42").replace(b"one", b"two") + b"x" * 42,
        (HEAD % b"42").replace(b"Length: ", b"Length:") + b"x" * 42,
        (HEAD % b"42")[:-2] + b"Expect: 100-continue\r\n\r\n" + b"x" * 42,
        b"\r\n" + HEAD % b"42" + b"x" * 42,
        HEAD[:20],
        b"",
    ],
)
def test_what_differs_from_the_last_request_in_anything_else_is_parsed(second: bytes) -> None:
    assert repeatable(HEAD % b"42" + b"x" * 42, second).request is None


@pytest.mark.parametrize("number", [b"007", b"7"])
def test_leading_zeros_are_read_as_before(number: bytes) -> None:
    parser = repeatable(HEAD % b"42" + b"x" * 42, b"")
    assert parser.feed(HEAD % number + b"1234567") == b""
    request = parser.request
    assert request is not None
    assert (request.body.declared, request.body.take()) == (7, b"1234567")
    parser.request = None
    assert (parser.repeated(HEAD % number + b"7654321") is None) is (number == b"007")


@pytest.mark.parametrize(
    "first",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
        CHUNKS + b"2\r\nab\r\n0\r\n\r\n",
        GET + b"\r\n",
    ],
)
def test_some_requests_are_parsed_however_often_they_come(first: bytes) -> None:
    assert repeatable(first, first).request is None


@pytest.mark.parametrize(("size", "kept"), [(1_000, True), (16_000, False)])
def test_large_heads_are_not_kept(size: int, kept: bool) -> None:
    wire = (HEAD % b"42")[:-2] + b"Cookie: " + b"c" * size + b"\r\n\r\n" + b"x" * 42
    assert (repeatable(wire, wire).request is not None) is kept


def test_within_a_request_nothing_is_a_repetition() -> None:
    wire = HEAD % b"42" + b"x" * 42
    parser = repeatable(wire, b"")
    parser.feed(wire[:10])
    assert parser.repeated(wire) is None
    parser.feed(wire[10:-1])
    assert parser.repeated(wire) is None
    parser.feed(wire[-1:])
    assert parser.request is not None
    assert parser.repeated(wire) is None
    parser.request = None
    parser.feed(b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n")
    parser.request = None
    assert parser.repeated(wire) is None
