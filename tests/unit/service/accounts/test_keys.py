"""The API key's form."""

from __future__ import annotations

import pytest

from service.accounts.keys import ApiKeyToken


def test_a_key_reads_back() -> None:
    token = ApiKeyToken.new()
    assert ApiKeyToken.parse(token.reveal()) == token
    assert token.row_id == f"key-{token.public}"


def test_it_matches_its_own_hash_only() -> None:
    token, other = ApiKeyToken.new(), ApiKeyToken.new()
    assert token.matches(token.secret_sha256)
    assert not token.matches(other.secret_sha256)
    assert not token.matches(None)


def test_no_repr_shows_the_secret() -> None:
    token = ApiKeyToken.new()
    assert token.secret not in repr(token)
    assert token.secret not in str(token)


def test_keys_do_not_repeat() -> None:
    assert len({ApiKeyToken.new().reveal() for _ in range(200)}) == 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "di_",
        "sk-abc",
        f"di_{'a' * 12}_{'b' * 42}",
        f"di_{'a' * 12}_{'b' * 44}",
        f"di_{'a' * 11}_{'b' * 43}",
        f"di_{'a' * 12}-{'b' * 43}",
        f"di_{'a' * 12}_{'b' * 43}\n",
        f" di_{'a' * 12}_{'b' * 43}",
        f"di_{'a' * 12}_{'b' * 42}é",
    ],
)
def test_anything_else_is_no_key(text: str) -> None:
    assert ApiKeyToken.parse(text) is None
