"""Tokens of an identity provider for tests: keys of each kind, and tokens good and bad."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER, AUDIENCE = "https://issuer.test", "dragoman-api"
SECRET = "a-shared-secret-of-32-bytes-or-more"


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


@functools.cache
def private_key(algorithm: str, name: str = "") -> Any:
    """Returns a private key for an algorithm; each name has its own."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def public_pem(algorithm: str, name: str = "") -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = private_key(algorithm, name).public_key()
    return str(key.public_bytes(serialization.Encoding.PEM, form).decode())


def jwk(algorithm: str, name: str = "", **members: Any) -> dict[str, Any]:
    """Returns the public half of a key as a JSON Web Key whose id is the name."""
    key = private_key(algorithm, name).public_key()
    if algorithm == "RS256":
        numbers = key.public_numbers()
        found = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    elif algorithm == "ES256":
        numbers = key.public_numbers()
        found = {"kty": "EC", "crv": "P-256", "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)}
    else:
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        found = {"kty": "OKP", "crv": "Ed25519", "x": part(raw)}
    return {**found, "kid": name, **members}


def _number(value: int, length: int = 0) -> str:
    return part(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def sign(head: Any, claims: Any, algorithm: str = "HS256", key: str | bytes = SECRET, name: str = "") -> str:
    """Returns a token of whatever head and claims (bytes are taken as they are), signed with a key."""
    parts = [part(value if isinstance(value, bytes) else json.dumps(value).encode()) for value in (head, claims)]
    signed = ".".join(parts).encode()
    if algorithm == "HS256":
        secret = key if isinstance(key, bytes) else key.encode()
        signature = hmac.new(secret, signed, hashlib.sha256).digest()
    elif algorithm == "RS256":
        signature = private_key(algorithm, name).sign(signed, padding.PKCS1v15(), hashes.SHA256())
    elif algorithm == "ES256":
        r, s = decode_dss_signature(private_key(algorithm, name).sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        signature = private_key(algorithm, name).sign(signed)
    return ".".join([*parts, part(signature)])


def token(
    now: float, *, algorithm: str = "HS256", name: str = "", head: dict[str, Any] | None = None, **claims: Any
) -> str:
    """Returns a good token that lives for a minute, but for what is given; a claim of None is left out."""
    given: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "subject-1", "exp": int(now) + 60, **claims}
    given = {claim: value for claim, value in given.items() if value is not None}
    own = {"kid": name} if name else {}
    return sign({"alg": algorithm, "typ": "JWT", **own, **(head or {})}, given, algorithm, name=name)
