"""Tokens of an identity provider: which are taken, which are not, and that the bad ones never reach the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts.authentication import ACCEPTED_TTL
from dragoman_server.accounts.keys import operator
from dragoman_server.accounts.secrets import MAX_TOKEN_CHARS
from dragoman_server.accounts.service import Accounts
from dragoman_server.caller import Caller
from dragoman_server.errors import Forbidden, InvalidRequest, Unauthenticated
from dragoman_server.settings import AuthSettings, JwtSettings
from dragoman_server.store.memory import MemoryStore
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, jwk, part, private_key, public_pem, sign, token

NOW = 1_790_000_000.0
LEEWAY = 30


class NoStore:
    """A store that fails on use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked: {name}")


@dataclass
class House:
    """Accounts with an identity provider, and a clock that stands still until moved."""

    accounts: Accounts
    store: MemoryStore
    now: float = NOW

    async def caller(self, credential: str) -> Caller:
        found = await self.accounts.authenticate(credential)
        assert self.accounts.cached(credential) == found
        return found

    async def refusal(self, credential: str) -> Reason:
        """Returns why a credential is refused; the store is never asked, neither the first nor the second time."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.accounts._authenticator, "_store", NoStore())
            for _ in range(2):
                with pytest.raises(Unauthenticated) as refused:
                    await self.accounts.authenticate(credential)
                assert self.accounts.cached(credential) is None
        return refused.value.reason


def house_of(**settings: Any) -> House:
    keys = settings or {"hs256_secret": SecretStr(SECRET), "public_key": SecretStr(public_pem("RS256"))}
    jwt = JwtSettings(**{"issuer": ISSUER, "audience": AUDIENCE, "leeway": LEEWAY, **keys})
    store = MemoryStore()
    house: House
    accounts = Accounts(
        store, AuthSettings(jwt=jwt), clock=lambda: house.now, monotonic=lambda: house.now - NOW + 1_000
    )
    house = House(accounts, store)
    return house


@pytest.fixture
def house() -> House:
    return house_of()


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
async def test_a_good_token_of_each_kind_is_its_subjects_own_account(algorithm: str) -> None:
    name, key = ("hs256_secret", SECRET) if algorithm == "HS256" else ("public_key", public_pem(algorithm))
    house = house_of(**{name: SecretStr(key)})
    caller = await house.caller(token(NOW, algorithm=algorithm))
    assert (caller.account_id, caller.key_id, caller.role) == ("sub:subject-1", "", KeyRole.KEY_ROLE_MEMBER)
    user = await house.store.identity.users.get("sub:subject-1", caller.user_id)
    assert user is not None
    assert (user.subject, user.email) == ("subject-1", None)


async def test_claims_say_account_scopes_and_role(house: House) -> None:
    caller = await house.caller(token(NOW, account="acme", scope="runs models.read", role="admin"))
    assert (caller.account_id, caller.role) == ("acme", KeyRole.KEY_ROLE_ADMIN)
    assert caller.grants.scopes == {"runs", "models.read"}
    lists: dict[str, Any] = {"scope": ["usage"], "role": ["staff", "admin"], "aud": ["x", AUDIENCE]}
    again = await house.caller(token(NOW, account="acme", **lists))
    assert (again.user_id, again.grants.scopes) == (caller.user_id, frozenset({"usage"}))
    assert again.role == KeyRole.KEY_ROLE_ADMIN
    other = await house.caller(token(NOW, account="acme", sub="subject-2", role=["staff"]))
    assert other.user_id != caller.user_id
    assert other.role == KeyRole.KEY_ROLE_MEMBER


async def test_a_token_without_any_scope_permits_nothing(house: House) -> None:
    assert (await house.caller(token(NOW, scope=""))).grants.scopes == {""}


async def test_times_are_checked_with_leeway(house: House) -> None:
    assert await house.caller(token(NOW, exp=NOW - LEEWAY + 1, nbf=NOW + LEEWAY, iat=NOW + 5))
    short = token(NOW, exp=NOW + 1)
    await house.caller(short)
    house.now += LEEWAY + 0.999
    assert await house.accounts.authenticate(short)
    house.now += 0.001
    assert await house.refusal(short) == Reason.TOKEN_EXPIRED
    house.now += 1_000
    assert await house.refusal(short) == Reason.TOKEN_EXPIRED


GOOD = {"iss": ISSUER, "aud": AUDIENCE, "sub": "subject-1", "exp": NOW + 60}
HEAD = {"alg": "HS256", "typ": "JWT"}
TWICE = json.dumps(GOOD)[:-1].encode() + b', "sub": "subject-2"}'
DEEP = b'{"iss": ' + b"[" * 3000 + b"]" * 3000 + b"}"
RSA_AS_SECRET = public_pem("RS256")

BAD = {
    "alg none": part(b'{"alg":"none"}') + "." + part(json.dumps(GOOD).encode()) + ".",
    "alg none with a signature": sign({"alg": "none"}, GOOD),
    "alg None": sign({"alg": "None"}, GOOD),
    "alg empty": sign({"alg": ""}, GOOD),
    "alg missing": sign({"typ": "JWT"}, GOOD),
    "alg a list": sign({"alg": ["HS256"]}, GOOD),
    "alg in lower case": sign({"alg": "hs256"}, GOOD),
    "another alg": sign({"alg": "HS512"}, GOOD),
    "the public key as shared secret": sign(HEAD, GOOD, key=RSA_AS_SECRET),
    "the public key as shared secret, stripped": sign(HEAD, GOOD, key=RSA_AS_SECRET.strip()),
    "RS256 claimed, HS256 signed": sign({"alg": "RS256"}, GOOD, key=RSA_AS_SECRET),
    "HS256 claimed, RS256 signed": sign({"alg": "HS256"}, GOOD, "RS256"),
    "an algorithm without a key": sign({"alg": "ES256"}, GOOD, "ES256"),
    "another's key": token(NOW, algorithm="RS256", name="other"),
    "another secret": sign(HEAD, GOOD, key="another-secret-of-32-bytes-or-more"),
    "an empty secret": sign(HEAD, GOOD, key=""),
    "claims changed": ".".join(
        [*token(NOW).split(".")[:1], part(json.dumps({**GOOD, "sub": "x"}).encode()), token(NOW).split(".")[2]]
    ),
    "wrong audience": token(NOW, aud="another"),
    "audience in a list in a list": token(NOW, aud=[[AUDIENCE]]),
    "audience beside a number": token(NOW, aud=[AUDIENCE, 1]),
    "no audience": token(NOW, aud=None),
    "empty audience": token(NOW, aud=[]),
    "wrong issuer": token(NOW, iss=ISSUER + "/"),
    "issuer in a list": token(NOW, iss=[ISSUER]),
    "no issuer": token(NOW, iss=None),
    "the issuer of logins here": token(NOW, iss="dragoman", aud="dragoman"),
    "no exp": token(NOW, exp=None),
    "exp a text": token(NOW, exp=str(NOW + 60)),
    "exp true": token(NOW, exp=True),
    "exp infinite": sign(HEAD, json.dumps(GOOD).replace(str(NOW + 60), "1e999").encode()),
    "exp not a number": sign(HEAD, json.dumps(GOOD).replace(str(NOW + 60), "NaN").encode()),
    "exp beyond all time": token(NOW, exp=10**30),
    "exp negative": token(NOW, exp=-1),
    "nbf a text": token(NOW, nbf="now"),
    "iat a list": token(NOW, iat=[1]),
    "no sub": token(NOW, sub=None),
    "sub empty": token(NOW, sub=""),
    "sub a number": token(NOW, sub=1),
    "sub too long": token(NOW, sub="s" * 256, account="acme"),
    "sub with a control character": token(NOW, sub="a\u0000b", account="acme"),
    "sub with half a character": token(NOW, sub="\ud800", account="acme"),
    "sub that is no account": token(NOW, sub="a/b"),
    "account of a subject": token(NOW, account="sub:subject-2"),
    "account a path": token(NOW, account="../default"),
    "account empty": token(NOW, account=""),
    "account a list": token(NOW, account=["default"]),
    "role operator": token(NOW, role="operator"),
    "role a number": token(NOW, role=3),
    "role in a list in a list": token(NOW, role=[["admin"]]),
    "scope a number": token(NOW, scope=1),
    "scope in a list in a list": token(NOW, scope=[["runs"]]),
    "too many scopes": token(NOW, scope=" ".join(f"s{n}" for n in range(101))),
    "crit": token(NOW, head={"crit": ["exp"]}),
    "b64": token(NOW, head={"b64": False}),
    "kid a number": token(NOW, head={"kid": 1}),
    "kid too long": token(NOW, head={"kid": "k" * 257}),
    "claims twice": sign(HEAD, TWICE),
    "head twice": sign(b'{"alg": "none", "alg": "HS256"}', GOOD),
    "claims nested deeply": sign(HEAD, DEEP[: 8 * 512] + b"}"),
    "claims a list": sign(HEAD, [GOOD]),
    "claims a text": sign(HEAD, "text"),
    "claims not UTF-8": sign(HEAD, b'{"iss": "\xff"}'),
    "claims no JSON": sign(HEAD, b"{"),
    "claims empty": sign(HEAD, b"{}"),
    "oversized": token(NOW, padding="p" * MAX_TOKEN_CHARS),
    "vast": token(NOW, padding="p" * 1_000_000),
    "padded": token(NOW) + "=",
    "not base64": token(NOW)[:-2] + "!!",
    "base64 of the other alphabet": token(NOW).replace(".", ".+/", 1),
    "spaces within": token(NOW).replace(".", ". ", 1),
    "no signature": token(NOW).rpartition(".")[0] + ".",
    "no claims": f"{part(b'{}')}..{part(b'x')}",
    "no head": token(NOW)[token(NOW).index(".") :],
    "all empty": "..",
    "four parts": token(NOW) + ".x",
    "five parts": "a.b.c.d.e",
    "words": "not.a.token",
    "not ASCII": "ä.ö.ü",
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_tokens_are_refused_and_none_reaches_the_store(house: House, name: str) -> None:
    assert await house.refusal(BAD[name]) == Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - LEEWAY}, {"exp": 0}, {"nbf": NOW + LEEWAY + 1}, {"nbf": NOW + 1_000, "exp": NOW + 2_000}]
)
async def test_tokens_out_of_their_time_are_refused(house: House, claims: dict[str, Any]) -> None:
    assert await house.refusal(token(NOW, **claims)) == Reason.TOKEN_EXPIRED


@pytest.mark.parametrize("kid", ["../../etc/passwd", "x' OR '1'='1", "\u0000", "https://evil.test/key", "rsa-1"])
async def test_a_key_id_without_a_set_of_keys_means_nothing(house: House, kid: str) -> None:
    assert await house.caller(token(NOW, head={"kid": kid}))
    assert await house.refusal(sign({**HEAD, "kid": kid}, GOOD, key="")) == Reason.TOKEN_INVALID


async def test_keys_and_addresses_in_the_head_are_not_read(house: House) -> None:
    own = jwk("RS256", "attacker")
    for extra in ({"jwk": own}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"x5c": ["MIIB"]}):
        bad = token(NOW, algorithm="RS256", name="attacker", head=extra)
        assert await house.refusal(bad) == Reason.TOKEN_INVALID
        assert await house.caller(token(NOW, algorithm="RS256", head=extra))


async def test_without_an_identity_provider_no_token_is_taken() -> None:
    accounts = Accounts(MemoryStore(), clock=lambda: NOW)
    await accounts.open()
    for bad in (token(NOW), token(NOW, iss="dragoman", aud="dragoman")):
        with pytest.raises(Unauthenticated) as refused:
            await accounts.authenticate(bad)
        assert refused.value.reason is Reason.TOKEN_INVALID


@given(st.text(), st.text(), st.text())
async def test_any_three_parts_are_refused_by_what_they_are(head: str, claims: str, signature: str) -> None:
    house = house_of()
    text = ".".join([head, claims, signature])
    assert await house.refusal(text) == Reason.TOKEN_INVALID


scalars = (
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.sampled_from([ISSUER, AUDIENCE])
)
collections = st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=4), scalars, max_size=3)
json_values = scalars | collections | st.lists(collections, max_size=2)
CLAIMS = ["iss", "aud", "exp", "nbf", "iat", "sub", "account", "scope", "role"]


async def reason_of(house: House, credential: str) -> Reason | None:
    """Returns why a token is refused, None if it is taken."""
    try:
        await house.accounts.authenticate(credential)
    except Unauthenticated as error:
        return error.reason
    return None


@given(st.dictionaries(st.sampled_from(CLAIMS), json_values))
async def test_any_claims_that_are_signed_are_taken_or_refused(claims: dict[str, Any]) -> None:
    house = house_of()
    reason = await reason_of(house, sign(HEAD, {**GOOD, **claims}))
    assert reason in (None, Reason.TOKEN_INVALID, Reason.TOKEN_EXPIRED)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "b64"]), json_values))
async def test_any_head_is_taken_or_refused(head: dict[str, Any]) -> None:
    house = house_of()
    assert await reason_of(house, sign({**HEAD, **head}, GOOD)) in (None, Reason.TOKEN_INVALID)


async def test_a_named_algorithm_list_narrows() -> None:
    keys = {"hs256_secret": SecretStr(SECRET), "public_key": SecretStr(public_pem("RS256"))}
    house = house_of(**keys, algorithms=("RS256",))
    assert await house.refusal(token(NOW)) == Reason.TOKEN_INVALID
    assert await house.caller(token(NOW, algorithm="RS256"))


async def test_an_account_that_does_not_exist_may_be_refused() -> None:
    house = house_of(hs256_secret=SecretStr(SECRET), create_accounts=False)
    with pytest.raises(Unauthenticated) as refused:
        await house.accounts.authenticate(token(NOW, account="acme"))
    assert refused.value.reason is Reason.TOKEN_INVALID
    await house.accounts.tenants.create(operator(), "Acme", "acme")
    assert (await house.caller(token(NOW, account="acme"))).account_id == "acme"


async def test_who_was_disabled_is_refused_at_once_and_let_in_again(house: House) -> None:
    credential = token(NOW, account="acme")
    caller = await house.caller(credential)
    for change in (
        lambda disabled: house.accounts.tenants.update(operator(), "acme", disabled=disabled),
        lambda disabled: house.accounts.users.update(operator(), caller.user_id, disabled=disabled, account_id="acme"),
    ):
        await change(True)
        assert house.accounts.cached(credential) is None
        with pytest.raises(Forbidden) as refused:
            await house.accounts.authenticate(credential)
        assert refused.value.reason is Reason.ACCOUNT_DISABLED
        await change(False)
        assert await house.caller(credential) == caller


async def test_what_happens_elsewhere_is_seen_within_seconds(house: House) -> None:
    credential = token(NOW, account="acme")
    await house.caller(credential)
    audit = house.accounts.tenants._acts.entry(operator(), "acme", "account.update", "acme")
    await house.store.identity.accounts.update("acme", {"disabled": True}, audit)
    assert await house.caller(credential)
    house.now += ACCEPTED_TTL
    with pytest.raises(Forbidden):
        await house.accounts.authenticate(credential)


async def test_nobody_becomes_operator_by_anothers_token(house: House) -> None:
    caller = await house.caller(token(NOW, account="acme"))
    await house.accounts.users.update(operator(), caller.user_id, role=KeyRole.KEY_ROLE_OPERATOR, account_id="acme")
    assert (await house.caller(token(NOW, account="acme"))).role == KeyRole.KEY_ROLE_ADMIN


@pytest.mark.parametrize("pem", ["", "no key", SECRET, "private"])
def test_what_is_no_public_key_is_refused_at_the_start(pem: str) -> None:
    if pem == "private":
        from cryptography.hazmat.primitives import serialization as s

        form = s.PrivateFormat.PKCS8
        pem = private_key("RS256").private_bytes(s.Encoding.PEM, form, s.NoEncryption()).decode()
    with pytest.raises(InvalidRequest) as refused:
        house_of(public_key=SecretStr(pem))
    assert refused.value.field == "auth.jwt.public_key"
    assert not pem or pem not in refused.value.message
