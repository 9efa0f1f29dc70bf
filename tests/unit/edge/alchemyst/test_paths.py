from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_edge.dialects.alchemyst.paths import gemini_upstream, openai_upstream, task_of
from dragoman_edge.errors import EdgeError

URL, KEY = "https://api.openai.com/v1", "sk-KEY"


@pytest.mark.parametrize(
    ("place", "url", "key"),
    [
        ("https://api.openai.com/v1/sk-KEY", URL, KEY),
        ("https:/api.openai.com/v1/sk-KEY", URL, KEY),
        ("HTTPS://api.openai.com/v1/sk-KEY", URL, KEY),
        ("api.openai.com/v1/sk-KEY", URL, KEY),
        ("https%3A%2F%2Fapi.openai.com%2Fv1/sk-KEY", URL, KEY),
        ("https%3a%2f%2fapi.openai.com%2fv1/sk-KEY", URL, KEY),
        ("https%3A//api.openai.com/v1/sk-KEY", URL, KEY),
        ("https%3A%2Fapi.openai.com%2Fv1/sk-KEY", URL, KEY),
        ("https%3A%2F%2Fapi.openai.com%2Fv1%2Fsk-KEY", URL, KEY),
        ("https://api.openai.com%2Fv1%2Fsk-KEY", URL, KEY),
        ("api.openai.com%2Fv1/sk-KEY", URL, KEY),
        ("api.openai.com%2Fv1%2Fsk-KEY", URL, KEY),
        ("https://api.openai.com/v1//sk-KEY", "https://api.openai.com/v1/", KEY),
        ("api.openai.com/sk-KEY", "https://api.openai.com", KEY),
        ("localhost:8000/v1/k", "https://localhost:8000/v1", "k"),
        ("http://127.0.0.1:8000/v1/k", "http://127.0.0.1:8000/v1", "k"),
        ("http://[::1]:8000/v1/k", "http://[::1]:8000/v1", "k"),
        ("http://%5B::1%5D:8000/v1/k", "http://[::1]:8000/v1", "k"),
        ("[2001:db8::1]/k", "https://[2001:db8::1]", "k"),
        ("http://h:1/a%2Fb", "http://h:1", "a/b"),
        ("http://h:1/100%25", "http://h:1", "100%"),
        ("http://h:1/a+b=c~!$&'()*,;:@", "http://h:1", "a+b=c~!$&'()*,;:@"),
        ("ftp://h/v1/k", "ftp://h/v1", "k"),
        ("file:/etc/passwd", "file:/etc", "passwd"),
        ("http:///h/k", "http:///h", "k"),
    ],
)
def test_a_path_names_a_server_and_a_key(place: str, url: str, key: str) -> None:
    upstream = openai_upstream(place)
    assert (upstream.base_url, upstream.api_key, upstream.dialect) == (url, key, "openai_chat")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("https%253A%252F%252Fapi.openai.com/sk-KEY-1234", "UPSTREAM_NOT_ALLOWED"),
        ("https://api.openai.com/v1/%252e%252e/sk-KEY-1234", "UPSTREAM_NOT_ALLOWED"),
        ("https%253A%252F%252Fapi.openai.com%252Fsk-KEY-1234", "UPSTREAM_NOT_ALLOWED"),
        ("https://api.openai.com/%ff/sk-KEY-1234", "UPSTREAM_NOT_ALLOWED"),
        ("https://api.openai.com/v1/sk-KEY-1234/", "INVALID_REQUEST"),
        ("https://", "INVALID_REQUEST"),
        ("https://api.openai.com/v1/sk-KEY-1234%0d%0ax:%20y", "INVALID_REQUEST"),
        ("https://api.openai.com/v1/sk-KEY-1234%00", "INVALID_REQUEST"),
        ("https://api.openai.com/v1/sk-KEY-1234%20", "INVALID_REQUEST"),
        ("https://api.openai.com/v1/sk-KEY-1234%C3%A9", "INVALID_REQUEST"),
        ("https://api.openai.com/v1/" + "sk-KEY-1234" * 1000, "INVALID_REQUEST"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_repeated(place: str, reason: str) -> None:
    with pytest.raises(EdgeError) as caught:
        openai_upstream(place)
    assert caught.value.reason == reason
    assert "KEY" not in caught.value.message
    assert "openai" not in caught.value.message


SEGMENT = st.text(string.ascii_letters + string.digits + "-._~:@", min_size=1, max_size=12)
HOST = st.from_regex(r"([a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\.){0,3}[a-z]{2,6}(:[1-9][0-9]{0,4})?", fullmatch=True)
URLS = st.builds(
    lambda scheme, host, path: f"{scheme}://{host}" + "".join(f"/{part}" for part in path),
    st.sampled_from(["http", "https"]),
    HOST,
    st.lists(SEGMENT, max_size=3),
)
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
KEYS = st.text(PRINTABLE, min_size=1, max_size=40)
SLASHLESS = st.text([sign for sign in PRINTABLE if sign != "/"], min_size=1, max_size=40)


@given(URLS, KEYS, st.sampled_from([":/", ""]))
def test_whatever_is_written_is_read(url: str, key: str, safe: str) -> None:
    """The address raw or encoded as a whole, the key encoded."""
    upstream = openai_upstream(f"{quote(url, safe=safe)}/{quote(key, safe='')}")
    assert (upstream.base_url, upstream.api_key) == (url, key)


@given(URLS, SLASHLESS)
def test_all_may_be_encoded_together(url: str, key: str) -> None:
    upstream = openai_upstream(quote(f"{url}/{key}", safe=""))
    assert (upstream.base_url, upstream.api_key) == (url, key)


@given(URLS, SLASHLESS)
def test_merged_slashes_and_missing_schemes_mean_the_same(url: str, key: str) -> None:
    merged = url.replace("://", ":/")
    assert openai_upstream(f"{merged}/{quote(key, safe='')}").base_url == url
    scheme, _, bare = url.partition("://")
    if scheme == "https":
        assert openai_upstream(f"{bare}/{quote(key, safe='')}").base_url == url


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(place: str) -> None:
    try:
        upstream = openai_upstream(place)
    except EdgeError:
        return
    assert "%" not in upstream.base_url
    assert upstream.api_key
    assert upstream.api_key.isascii()


@pytest.mark.parametrize(
    ("place", "version", "url"),
    [
        ("generativelanguage.googleapis.com", "v1beta", "https://generativelanguage.googleapis.com/v1beta"),
        ("https://generativelanguage.googleapis.com", "v1", "https://generativelanguage.googleapis.com/v1"),
        ("https:/h/", "v1", "https://h/v1"),
        ("https%3A%2F%2Fh%2Fx", "v1beta", "https://h/x/v1beta"),
        ("http://127.0.0.1:8000", "v1beta", "http://127.0.0.1:8000/v1beta"),
    ],
)
def test_the_gemini_proxy_reads_addresses_alike(place: str, version: str, url: str) -> None:
    upstream = gemini_upstream(place, version, "key")
    assert (upstream.base_url, upstream.api_key, upstream.dialect) == (url, "key", "gemini")


def test_the_gemini_proxy_refuses_alike() -> None:
    with pytest.raises(EdgeError):
        gemini_upstream("https%253A%252F%252Fh", "v1", "key")
    with pytest.raises(EdgeError):
        gemini_upstream("https://h", "v1", "a b")
    assert gemini_upstream("https://h", "v1", "").api_key == ""


@pytest.mark.parametrize(
    ("segment", "model", "method"),
    [
        ("gemini-2.5-flash:generateContent", "gemini-2.5-flash", "generateContent"),
        ("a%2Fb%3Ac:streamGenerateContent", "a/b:c", "streamGenerateContent"),
        ("m%3AgenerateContent", "m", "generateContent"),
        ("nothing", "", "nothing"),
    ],
)
def test_the_last_segment_has_model_and_method(segment: str, model: str, method: str) -> None:
    assert task_of(segment) == (model, method)
