"""Deterministic draws from a key: HKDF-SHA256 and an HMAC-SHA256 counter stream."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")

_DIGEST_BYTES = 32


def length_prefixed(*parts: bytes) -> bytes:
    """Each part behind its 8-byte big-endian length, so that no two lists share an encoding."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def hkdf(ikm: bytes, *, salt: bytes, info: bytes, length: int = _DIGEST_BYTES) -> bytes:
    """HKDF-SHA256, extract and expand (RFC 5869).

    Raises:
        ValueError: more than 255 blocks are asked for.
    """
    if length > 255 * _DIGEST_BYTES:
        raise ValueError("HKDF gives at most 255 blocks")
    prk = hmac.digest(salt or bytes(_DIGEST_BYTES), ikm, "sha256")
    block, output, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        output += block
        counter += 1
    return output[:length]


class Stream:
    """An endless pseudo-random stream; the same key and label give the same draws everywhere."""

    __slots__ = ("_buffer", "_counter", "_key")

    def __init__(self, key: bytes, label: str) -> None:
        self._key = hkdf(key, salt=b"doublei/stream/v1", info=label.encode())
        self._counter = 0
        self._buffer = b""

    def __repr__(self) -> str:
        return "Stream(<hidden>)"

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        while len(self._buffer) < count:
            self._buffer += hmac.digest(self._key, self._counter.to_bytes(8, "big"), "sha256")
            self._counter += 1
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def below(self, bound: int) -> int:
        """A uniform integer in 0..bound-1, by rejection, so without modulo bias.

        Raises:
            ValueError: bound < 1.
        """
        if bound < 1:
            raise ValueError("bound must be positive")
        limit = (1 << 64) - (1 << 64) % bound
        while True:
            value = int.from_bytes(self.take(8), "big")
            if value < limit:
                return value % bound

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, uniformly."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` distinct items in random order (the head of a Fisher-Yates shuffle).

        Raises:
            ValueError: there are fewer items than asked for.
        """
        if count > len(items):
            raise ValueError(f"{count} of {len(items)} items")
        pool = list(items)
        for index in range(count):
            other = index + self.below(len(pool) - index)
            pool[index], pool[other] = pool[other], pool[index]
        return pool[:count]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.sample(items, len(items))


def digest(domain: str, *parts: bytes) -> bytes:
    """SHA-256 over a domain and length-prefixed parts."""
    return sha256(length_prefixed(domain.encode(), *parts)).digest()
