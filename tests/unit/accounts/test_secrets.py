from __future__ import annotations

import hashlib

from hypothesis import example, given
from hypothesis import strategies as st

from dragoman_server.accounts.secrets import is_presentable, new_secret, secret_hash, shown_prefix


def test_a_new_secret_is_long_random_and_fit_for_a_header() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("dgm_")
        assert len(secret) == len("dgm_") + 43  # 256 bits in base64
        assert is_presentable(secret)


def test_what_is_shown_of_a_generated_secret_is_ten_characters() -> None:
    secret = new_secret()
    assert shown_prefix(secret) == secret[:10]


@given(st.text(min_size=16, max_size=600))
def test_what_is_shown_never_exceeds_a_quarter(secret: str) -> None:
    prefix = shown_prefix(secret)
    assert secret.startswith(prefix)
    assert 1 <= len(prefix) <= min(10, len(secret) / 4)


@given(st.text(st.characters(exclude_categories=[]), max_size=100))  # surrogates too: a header may hold anything
def test_any_credential_has_a_hash(credential: str) -> None:
    assert len(secret_hash(credential)) == 32


def test_the_hash_is_sha_256() -> None:
    assert secret_hash("sesame") == hashlib.sha256(b"sesame").digest()


@given(st.text(max_size=100))
@example("one.dot")
@example("two.dots.")
def test_presentable_means_that_a_header_carries_it_unchanged_and_nobody_takes_it_for_a_token(secret: str) -> None:
    carried = secret.isascii() and secret.isprintable() and " " not in secret
    assert is_presentable(secret) == (carried and secret.count(".") < 2)
