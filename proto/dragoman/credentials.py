"""What credentials look like: the same on both sides of the contract, which must not disagree."""

from __future__ import annotations


def looks_like_token(credential: str) -> bool:
    """Tells whether a credential is to be read as a token: three or more parts with dots between. No key has them.

    It says which of the two it can be, and nothing about whether it is good.
    """
    return credential.count(".") >= 2
