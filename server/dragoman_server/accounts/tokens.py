"""Access tokens (JWT, RFC 7519): those of the identity provider, and those of logins here.

A token's own word about how to check it is not believed: its algorithm must be the one that the key is for, keys come
from the configuration only, and what its head says of addresses and keys is not read. Nothing here asks the store.

PyJWT brings the algorithms, and is imported when it is needed, on a thread: with cryptography behind it, it is slow to
import.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts.secrets import MAX_TOKEN_CHARS
from dragoman_server.errors import InvalidRequest, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from dragoman_server.clock import Clock
    from dragoman_server.settings import JwtSettings

    FindKeys = Callable[[str, str | None], Awaitable[Iterable[Any]]]
    """From an algorithm and the key id of a token, if it has one, to the keys that it may be signed with."""

LOGIN_ISSUER = "dragoman"
"""The issuer, and the audience, of the tokens of logins here."""

SUBJECT_ACCOUNT = "sub:"
"""What the id of a subject's own account begins with. No claim may name such an account."""

ACCOUNT_ID = re.compile(r"[A-Za-z0-9._@|:-]{1,128}", re.ASCII)
"""What the id of an account looks like."""

MAX_TRUST = 300.0
"""Seconds that a signature, once checked, is believed: a key that was withdrawn is good for no longer."""

MAX_VERIFIED = 10_000
"""Most tokens remembered."""

MAX_SUBJECT_CHARS = 255
MAX_KEY_ID_CHARS = 256
MAX_SCOPES = 100
_LAST_TIME = 253_402_300_800
"""The first second of the year 10000."""

_PART = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_LOGIN_ID = re.compile(r"login_[0-9a-f]{32}", re.ASCII)
_USER_ID = re.compile(r"user_[0-9a-f]{32}", re.ASCII)
_loaded = False
_ROLES = {"member": KeyRole.KEY_ROLE_MEMBER, "admin": KeyRole.KEY_ROLE_ADMIN}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says.

    Attributes:
        account_id: The account.
        subject: Who: the identity provider's name for them, or the id of a user who logged in here.
        login_id: The login here that it belongs to; None for those of the identity provider.
        role: What it permits; unspecified leaves it to the user's own role.
        scopes: What it is restricted to; empty for nothing.
        expire_time: When it stops working, in seconds since the epoch; what clocks may differ by is included.
    """

    account_id: str
    subject: str
    login_id: str | None
    role: KeyRole
    scopes: frozenset[str]
    expire_time: float


@dataclass(frozen=True, slots=True)
class Issuer:
    """Somebody whose tokens are taken.

    Attributes:
        audience: What their `aud` must have.
        algorithms: Which algorithms are taken.
        find_keys: Finds the keys that a token may be signed with.
        leeway: Seconds by which clocks may differ.
        read: From the claims, which were checked, and the end of the token's life to what they mean; raises
            Unauthenticated if they mean nothing.
    """

    audience: str
    algorithms: frozenset[str]
    find_keys: FindKeys
    leeway: float
    read: Callable[[Mapping[str, Any], float], Claims]


class Tokens:
    """Checks tokens, and remembers for a while which were good."""

    def __init__(self, clock: Clock, monotonic: Clock) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._issuers: dict[str, Issuer] = {}
        self._verified: dict[bytes, tuple[Claims, float]] = {}  # by the token's hash, oldest first

    def add_issuer(self, name: str, issuer: Issuer) -> None:
        """Takes the tokens of an issuer from now on."""
        self._issuers[name] = issuer

    async def verify(self, digest: bytes, token: str) -> Claims:
        """Returns what a token says.

        Args:
            digest: The token's hash.
            token: The token.

        Raises:
            Unauthenticated: If it is not good (TOKEN_INVALID), or not now (TOKEN_EXPIRED).
            Unavailable: If the identity provider's keys cannot be had.
        """
        known = self._verified.get(digest)
        if known is not None and self._monotonic() < known[1] and self._clock() < known[0].expire_time:
            return known[0]
        claims = await self._check(token)
        self._verified.pop(digest, None)
        if len(self._verified) >= MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = (claims, self._monotonic() + MAX_TRUST)
        return claims

    async def _check(self, token: str) -> Claims:
        head, claims, signed, signature = parse_token(token)
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            _refuse("its issuer is not accepted")
        algorithm = head["alg"]
        if algorithm not in issuer.algorithms:
            _refuse("its algorithm is not accepted")
        await load_algorithms()
        keys = await issuer.find_keys(algorithm, head.get("kid"))
        if not any(_is_signed(algorithm, key, signed, signature) for key in keys):
            _refuse("its signature does not hold")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in audiences) or issuer.audience not in audiences:
            _refuse("it is not for this audience")
        return issuer.read(claims, self._check_times(claims, issuer.leeway))

    def _check_times(self, claims: Mapping[str, Any], leeway: float) -> float:
        """Returns the end of the token's life."""
        now = self._clock()
        if "exp" not in claims:
            _refuse("it has no exp")
        expire_time = _seconds(claims, "exp") + leeway
        if now >= expire_time:
            _refuse("it has expired", Reason.TOKEN_EXPIRED)
        if now < (_seconds(claims, "nbf") if "nbf" in claims else 0) - leeway:
            _refuse("its time has not begun", Reason.TOKEN_EXPIRED)
        if "iat" in claims:
            _seconds(claims, "iat")
        return expire_time


def provider_claims(settings: JwtSettings) -> Callable[[Mapping[str, Any], float], Claims]:
    """Returns what reads the claims of an identity provider's tokens."""

    def read(claims: Mapping[str, Any], expire_time: float) -> Claims:
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
            _refuse(f"it has no sub of 1 to {MAX_SUBJECT_CHARS} characters")
        account_id = claims.get(settings.account_claim, SUBJECT_ACCOUNT + subject)
        if not isinstance(account_id, str) or not ACCOUNT_ID.fullmatch(account_id):
            what = f"its {settings.account_claim}" if settings.account_claim in claims else "its sub"
            _refuse(f"{what} cannot be the id of an account")
        if account_id.startswith(SUBJECT_ACCOUNT) and settings.account_claim in claims:
            _refuse(f"its {settings.account_claim} names the account of a subject")
        role = _role(claims, settings.role_claim)
        return Claims(account_id, subject, None, role, _scopes(claims, settings.scope_claim), expire_time)

    return read


def login_claims(claims: Mapping[str, Any], expire_time: float) -> Claims:
    """Reads the claims of a token that a login here was given."""
    account_id, user_id, login_id = claims.get("account"), claims.get("sub"), claims.get("sid")
    if not (isinstance(account_id, str) and isinstance(user_id, str) and isinstance(login_id, str)):
        _refuse("it is of no login")
    if not (ACCOUNT_ID.fullmatch(account_id) and _USER_ID.fullmatch(user_id) and _LOGIN_ID.fullmatch(login_id)):
        _refuse("it is of no login")
    return Claims(account_id, user_id, login_id, KeyRole.KEY_ROLE_UNSPECIFIED, frozenset(), expire_time)


async def load_algorithms() -> None:
    """Imports what signs and checks tokens, if it is not there yet, without holding up the loop."""
    global _loaded
    if not _loaded:
        await asyncio.to_thread(importlib.import_module, "jwt")
        _loaded = True


def new_token(claims: Mapping[str, Any], secret: bytes) -> str:
    """Returns a token signed with HS256."""
    import jwt

    return jwt.encode(dict(claims), secret, "HS256")


def only_key(algorithm: str, key: Any) -> FindKeys:
    """Returns what finds one key, which is for one algorithm."""

    async def find(asked: str, _key_id: str | None) -> tuple[Any, ...]:
        return (key,) if asked == algorithm else ()

    return find


def public_key_of_pem(pem: str) -> tuple[str, Any]:
    """Returns a public key, and the one algorithm that it is for.

    Raises:
        InvalidRequest: If it is none that is taken.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    field = "auth.jwt.public_key"
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(f"{field} must be a public key in PEM", field=field) from None
    algorithm = algorithm_of_key(key)
    if algorithm is None:
        raise InvalidRequest(f"{field} must be an RSA key of 2048 bits or more, of P-256, or of Ed25519", field=field)
    return algorithm, key


def algorithm_of_key(key: Any) -> str | None:
    """Returns the one algorithm that a public key is for; None if it is of no kind, or not of the strength, taken."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return "RS256" if 2048 <= key.key_size <= 8192 else None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ES256" if isinstance(key.curve, ec.SECP256R1) else None
    return "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else None


def parse_token(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Takes a token apart; nothing of it is to be believed yet.

    Returns:
        Its head, which has an `alg`, its claims, what is signed, and the signature.

    Raises:
        Unauthenticated: If it is malformed.
    """
    if len(token) > MAX_TOKEN_CHARS:
        _refuse(f"it has more than {MAX_TOKEN_CHARS} characters")
    parts = token.split(".")
    if len(parts) != 3:
        _refuse("it must have three parts")
    head, claims, signature = map(_decoded, parts)
    fields = _object(head)
    if not isinstance(fields.get("alg"), str) or not isinstance(fields.get("kid", ""), str):
        _refuse("its head is malformed")
    if len(fields.get("kid", "")) > MAX_KEY_ID_CHARS:
        _refuse("its key id is too long")
    if "crit" in fields or "b64" in fields:
        _refuse("its head asks for an extension")
    return fields, _object(claims), f"{parts[0]}.{parts[1]}".encode("ascii"), signature


def _decoded(part: str) -> bytes:
    """Returns the bytes of a part; there is one way only to write them."""
    if not _PART.fullmatch(part):
        _refuse("a part is not base64url")
    try:
        found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        _refuse("a part is not base64url")
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode("ascii") != part:
        _refuse("a part is not base64url")
    return found


def _object(text: bytes) -> dict[str, Any]:
    """Returns a JSON object. No member may be there twice: others might read the other one."""

    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise ValueError("a member is there twice")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        _refuse("a part is not JSON")
    if not isinstance(found, dict):
        _refuse("a part is no JSON object")
    return found


def _is_signed(algorithm: str, key: Any, signed: bytes, signature: bytes) -> bool:
    from jwt.algorithms import get_default_algorithms

    return bool(get_default_algorithms()[algorithm].verify(signed, key, signature))


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        _refuse(f"its {name} is no time")
    if not 0 <= value < _LAST_TIME:
        _refuse(f"its {name} is no time")
    return float(value)


def _scopes(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    if name not in claims:
        return frozenset()
    value = claims[name]
    scopes = value.split() if isinstance(value, str) else value
    if not isinstance(scopes, list) or len(scopes) > MAX_SCOPES or not all(isinstance(one, str) for one in scopes):
        _refuse(f"its {name} is no list of scopes")
    return frozenset(scopes) or frozenset({""})  # an empty list permits nothing; an empty set would permit everything


def _role(claims: Mapping[str, Any], name: str) -> KeyRole:
    """Returns the role. Of a list, only `admin` says something; nobody becomes operator by a token."""
    value = claims.get(name, "member")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = "admin" if "admin" in value else "member"
    role = _ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        _refuse(f"its {name} is no role that a token can give")
    return role


def _refuse(what: str, reason: Reason = Reason.TOKEN_INVALID) -> NoReturn:
    raise Unauthenticated(f"the access token is refused: {what}", reason=reason)
