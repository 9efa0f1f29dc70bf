from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.proxy.allow_list import AllowList, is_public

LIST = AllowList(
    ["https://api.openai.com/v1", "http://127.0.0.1:18080/v1", "https://generativelanguage.googleapis.com"]
)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://api.openai.com/v1/",
        "https://API.OpenAI.com/v1",
        "https://api.openai.com:443/v1",
        "https://api.openai.com/v1/deployments/x",
        "http://127.0.0.1:18080/v1",
        "https://generativelanguage.googleapis.com/v1beta",
    ],
)
def test_what_is_listed_is_found(url: str) -> None:
    address, allowed = LIST.find(url)
    assert allowed.covers(address)


HOSTILE = [
    "",
    "api.openai.com/v1",
    "//api.openai.com/v1",
    "http://api.openai.com/v1",
    "https://api.openai.com",
    "https://api.openai.com/v",
    "https://api.openai.com/v12",
    "https://api.openai.com/V1",
    "https://api.openai.com:8443/v1",
    "https://api.openai.com.evil.test/v1",
    "https://evil.test/https://api.openai.com/v1",
    "https://api.openai.com@evil.test/v1",
    "https://user:pass@api.openai.com/v1",
    "https://evil.test#@api.openai.com/v1",
    "https://evil.test\\@api.openai.com/v1",
    "https://api.openai.com\\.evil.test/v1",
    "https://api.openai.com/v1/../admin",
    "https://api.openai.com/v1/%2e%2e/admin",
    "https://api.openai.com/v1/%252e%252e/admin",
    "https://api.openai.com/v1/./x",
    "https://api.openai.com/v1//x",
    "https://api.openai.com/v1/%2f%2fevil.test",
    "https://api.openai.com/v1?x=1",
    "https://api.openai.com/v1#x",
    "https://api.openai.com/v1/\r\nHost: evil.test",
    "https://api.openai.com/v1/%0d%0aHost:%20evil.test",
    "https://api.openai.com/v1 /x",
    "https://api.openai.com /v1",
    "https://api.openai.com:/../v1",
    "https://api.openai.com:99999/v1",
    "https://аpi.openai.com/v1",  # the first letter is Cyrillic
    "https://[::1]/v1",
    "https://127.0.0.1/v1",
    "http://127.0.0.1:18081/v1",
    "http://127.1:18080/v1",
    "http://2130706433:18080/v1",
    "http://0x7f.0.0.1:18080/v1",
    "http://localhost:18080/v1",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "gopher://127.0.0.1:18080/v1",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_all_else_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        LIST.find(url)
    assert caught.value.reason == "UPSTREAM_NOT_ALLOWED"
    assert len(url) < 3 or url not in caught.value.message


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://api.openai.com", "https://api.openai.com/v1"]))
def test_nothing_but_a_refusal_or_the_listed_server(text: str, before: str) -> None:
    try:
        address, _ = LIST.find(before + text)
    except InvalidRequest:
        return
    assert (address.host.lower(), address.port) in {
        ("api.openai.com", 443),
        ("127.0.0.1", 18080),
        ("generativelanguage.googleapis.com", 443),
    }
    assert ".." not in address.path.split("/")
    assert "%" not in address.path or "%25" not in address.path


def test_an_empty_list_allows_nothing() -> None:
    with pytest.raises(InvalidRequest):
        AllowList([]).find("https://api.openai.com/v1")


@pytest.mark.parametrize("url", ["api.openai.com", "ftp://x/y", "https://u:p@host/", "https://host/a/../b"])
def test_a_malformed_entry_is_told_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest):
        AllowList([url])


@pytest.mark.parametrize(
    ("url", "names_port"), [("https://a.test", False), ("https://a.test:443", True), ("http://[::1]:8000/v1", True)]
)
def test_an_entry_may_name_its_port(url: str, names_port: bool) -> None:
    assert AllowList([url]).find(url)[1].names_port is names_port


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "::127.0.0.1",
        "::10.0.0.1",
        "fec0::1",
        "64:ff9b:1::7f00:1",
        "4000::1",
    ],
)
def test_addresses_of_no_public_host(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_public_hosts(address: str) -> None:
    assert is_public(address)
