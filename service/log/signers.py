"""The keys that this process can sign the log with. Which of them does, the log itself says."""

from __future__ import annotations

from collections.abc import Callable

from evidence.log.note import PublicKey, Signer


class Signers:
    """The log's keys, read again when the log names one that is not held: so a change of the key needs no
    restart."""

    def __init__(self, read: Callable[[], tuple[Signer, ...]]) -> None:
        """Read them once.

        Raises:
            SettingsError: whatever ``read`` raises.
        """
        self._read = read
        self._held = read()

    def __repr__(self) -> str:
        return f"Signers({', '.join(str(one.public) for one in self._held)})"

    @property
    def first(self) -> PublicKey:
        """The key of a log whose key was never changed."""
        return self._held[0].public

    def of(self, key: PublicKey) -> Signer | None:
        """The private half of a key; None: it is not in the file.

        Raises:
            SettingsError: it is not held, and the file can't be read.
        """
        if key not in [one.public for one in self._held]:
            self._held = self._read()
        return next((one for one in self._held if one.public == key), None)
