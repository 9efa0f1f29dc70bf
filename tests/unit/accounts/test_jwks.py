"""An identity provider's keys at a URL: fetched, kept, rotated, and never asked for too often."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from dragoman.reasons import Reason
from dragoman_server.accounts.jwks import LEAST_INTERVAL, MAX_AGE, MAX_BYTES, MAX_STALE, parse_keys
from dragoman_server.accounts.service import Accounts
from dragoman_server.errors import Unauthenticated, Unavailable
from dragoman_server.settings import AuthSettings, JwtSettings
from dragoman_server.store.memory import MemoryStore
from tests.support.tokens import AUDIENCE, ISSUER, jwk, part, private_key, sign, token

NOW = 1_790_000_000.0


class Provider:
    """An identity provider: an HTTP server that tells its keys, and accounts that take its tokens."""

    def __init__(self) -> None:
        self.now = NOW
        self.asked = 0
        self.answer: tuple[int, bytes, dict[str, str]] = (200, b"", {})
        self.delay = 0.0
        self.accounts: Accounts

    def tell(self, *keys: dict[str, Any]) -> None:
        self.answer = (200, json.dumps({"keys": keys}).encode(), {})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            assert head.startswith(b"GET /keys HTTP/1.1\r\n")
            await asyncio.sleep(self.delay)
            status, body, headers = self.answer
            lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has enough
        finally:
            writer.close()

    async def refusal(self, credential: str) -> Reason:
        with pytest.raises(Unauthenticated) as refused:
            await self.accounts.authenticate(credential)
        return refused.value.reason


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    jwt = JwtSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=f"http://127.0.0.1:{port}/keys", **settings)
    provider.accounts = Accounts(
        MemoryStore(),
        AuthSettings(jwt=jwt),
        clock=lambda: provider.now,
        monotonic=lambda: provider.now - NOW + 1_000,
    )
    async with server:
        yield provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with running() as provider:
        yield provider


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_keys_of_each_kind_are_fetched_once(provider: Provider, algorithm: str) -> None:
    provider.tell(jwk(algorithm, "one", alg=algorithm, use="sig"), jwk(algorithm, "two"))
    for number in range(3):
        assert await provider.accounts.authenticate(
            token(NOW, algorithm=algorithm, name="one", sub=f"subject-{number}")
        )
    assert await provider.accounts.authenticate(token(NOW, algorithm=algorithm, name="two"))
    assert provider.asked == 1


async def test_tokens_that_come_together_share_one_fetch(provider: Provider) -> None:
    provider.tell(jwk("ES256", "one"))
    provider.delay = 0.1
    tokens = [token(NOW, algorithm="ES256", name="one", sub=f"s{number}") for number in range(20)]
    callers = await asyncio.gather(*map(provider.accounts.authenticate, tokens))
    assert len({caller.account_id for caller in callers}) == 20
    assert provider.asked == 1


async def test_a_new_key_is_taken_when_a_token_names_it_and_the_old_one_goes(provider: Provider) -> None:
    provider.tell(jwk("ES256", "old"))
    old = token(NOW, algorithm="ES256", name="old", exp=NOW + 10_000)
    assert await provider.accounts.authenticate(old)
    provider.tell(jwk("ES256", "new"))
    provider.now += LEAST_INTERVAL
    assert await provider.accounts.authenticate(token(NOW, algorithm="ES256", name="new"))
    assert provider.asked == 2
    provider.now += MAX_AGE  # what was verified is not believed for ever
    assert await provider.refusal(old) == Reason.TOKEN_INVALID


async def test_a_flood_of_unknown_key_ids_is_one_fetch(provider: Provider) -> None:
    provider.tell(jwk("ES256", "one"))
    assert await provider.accounts.authenticate(token(NOW, algorithm="ES256", name="one"))
    provider.now += LEAST_INTERVAL
    names = [f"k{number}" for number in range(50)] + ["../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1:1/x"]
    for name in names:
        bad = token(NOW, algorithm="ES256", name="attacker", head={"kid": name})
        assert await provider.refusal(bad) == Reason.TOKEN_INVALID
    assert provider.asked == 2
    assert await provider.accounts.authenticate(token(NOW, algorithm="ES256", name="one", sub="another"))


async def test_a_token_without_key_id_may_be_signed_by_any_key(provider: Provider) -> None:
    provider.tell(jwk("RS256", "one"), jwk("RS256", "two"))
    assert await provider.accounts.authenticate(token(NOW, algorithm="RS256", name="two", head={"kid": "two"}))
    no_kid = {"alg": "RS256"}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": NOW + 60}
    assert await provider.accounts.authenticate(sign(no_kid, claims, "RS256", name="two"))
    assert await provider.refusal(sign(no_kid, claims, "RS256", name="three")) == Reason.TOKEN_INVALID


async def test_a_key_is_for_its_own_algorithm_only(provider: Provider) -> None:
    secret = "a-shared-secret-of-32-bytes-or-more"
    provider.tell(jwk("RS256", "one", alg="ES256"), {"kty": "oct", "kid": "secret", "k": part(secret.encode())})
    assert await provider.refusal(token(NOW, algorithm="RS256", name="one")) == Reason.TOKEN_INVALID
    assert await provider.refusal(token(NOW, head={"kid": "secret"})) == Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"{}", {}),
        (302, b"", {"Location": "http://127.0.0.1:1/keys"}),
        (200, b"no json", {}),
        (200, b'{"keys": 1}', {}),
        (200, b"[" * 100_000, {}),
        (200, b" " * (MAX_BYTES + 1), {}),
    ],
)
async def test_without_keys_nobody_can_tell_and_the_client_may_try_again(provider: Provider, answer: Any) -> None:
    provider.answer = answer
    for _ in range(3):
        with pytest.raises(Unavailable):
            await provider.accounts.authenticate(token(NOW, algorithm="ES256", name="one"))
    assert provider.asked == 1
    provider.tell(jwk("ES256", "one"))
    provider.now += LEAST_INTERVAL
    assert await provider.accounts.authenticate(token(provider.now, algorithm="ES256", name="one"))


async def test_old_keys_are_believed_for_a_while_when_the_provider_is_away(provider: Provider) -> None:
    provider.tell(jwk("ES256", "one"))
    await provider.accounts.authenticate(token(NOW, algorithm="ES256", name="one"))
    provider.answer = (500, b"", {})
    provider.now += MAX_AGE
    assert await provider.accounts.authenticate(token(provider.now, algorithm="ES256", name="one"))
    provider.now += MAX_STALE - MAX_AGE
    with pytest.raises(Unavailable):
        await provider.accounts.authenticate(token(provider.now, algorithm="ES256", name="one"))


def test_a_key_that_this_build_cannot_read_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_data: Any) -> Any:
        raise UnsupportedAlgorithm("not in this build of OpenSSL")

    monkeypatch.setattr(ECAlgorithm, "from_jwk", staticmethod(refuse))
    keys = [jwk(algorithm) for algorithm in ("ES256", "RS256")]
    assert [algorithm for _, algorithm, _ in parse_keys(json.dumps({"keys": keys}).encode())] == ["RS256"]


def test_private_weak_and_foreign_keys_are_left_out() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import RSAAlgorithm

    weak = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
    curve = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key()))
    private = json.loads(RSAAlgorithm.to_jwk(private_key("RS256")))
    others = [weak, curve, private, jwk("RS256", "enc", use="enc"), jwk("RS256", kid=7), {}, {"kty": []}, "x", None]
    found = parse_keys(json.dumps({"keys": [*others, jwk("RS256", "good")]}).encode())
    assert [(key_id, algorithm) for key_id, algorithm, _ in found] == [("good", "RS256")]


WORDS = ["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB"]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "kid", "alg", "use", "crv", "n", "e", "x", "y"]),
            st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(WORDS),
        ),
        max_size=4,
    )
)
def test_any_set_of_keys_is_read(keys: list[dict[str, Any]]) -> None:
    assert isinstance(parse_keys(json.dumps({"keys": keys}).encode()), tuple)


@given(st.binary(max_size=60))
def test_any_answer_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_keys(body), tuple)
