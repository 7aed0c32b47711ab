"""The API key's form, and comparing one without telling how wrong it was.

``di_<id 12>_<secret 43>``: the id finds the row, the secret (43 base-62 characters, 256 bits) is stored
as its SHA-256 only. 256 random bits need no slow hash.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from service.ids import random_base62

ID_CHARACTERS = 12
SECRET_CHARACTERS = 43

_FORM = re.compile(rf"di_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})")
_NOBODY = sha256(b"doublei: no such key").digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyToken:
    """A bearer key taken apart. Its secret is in no repr."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """A fresh key."""
        return cls(public=random_base62(ID_CHARACTERS), secret=random_base62(SECRET_CHARACTERS))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a bearer token; None if it is no key of this service."""
        match = _FORM.fullmatch(text)
        return cls(public=match[1], secret=match[2]) if match else None

    @property
    def row_id(self) -> str:
        """The id of its row, safe to show and to log."""
        return f"key-{self.public}"

    @property
    def secret_sha256(self) -> bytes:
        """What is stored of the secret."""
        return sha256(self.secret.encode()).digest()

    def reveal(self) -> str:
        """The whole key, to be shown once."""
        return f"di_{self.public}_{self.secret}"

    def matches(self, stored_sha256: bytes | None) -> bool:
        """Compare in constant time; with None (unknown id) the same work is done and the answer is no."""
        equal = hmac.compare_digest(self.secret_sha256, stored_sha256 or _NOBODY)
        return equal and stored_sha256 is not None
