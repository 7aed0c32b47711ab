"""The suspect's API key, in a type that does not print itself."""

from __future__ import annotations

from probe.template import CREDENTIAL


class Credential:
    """A suspect's token. It leaves only through `header` and `filled_into`, into a request's headers."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        """Wrap a token.

        Raises:
            ValueError: it holds anything but visible ASCII (it could not travel in a header).
        """
        if not token or not token.isascii() or not all(33 <= ord(char) <= 126 for char in token):
            raise ValueError("a credential is visible ASCII without spaces")
        self._token = token

    def header(self) -> tuple[bytes, bytes]:
        """The Authorization header. Never log it."""
        return (b"Authorization", b"Bearer " + self._token.encode("ascii"))

    def filled_into(self, value: str) -> bytes:
        """A template's header value with the token in the place that is kept for it. Never log it."""
        return value.replace(CREDENTIAL, self._token).encode("ascii")

    def __repr__(self) -> str:
        return "Credential(hidden)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a credential is not pickled")
