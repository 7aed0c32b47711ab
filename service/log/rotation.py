"""``python -m service.log.rotation``: another key signs the log from now on.

The new key is put into the key file below the old one; the log then says, in an entry that both have signed,
that it follows; then the old key leaves the file, and nothing can sign with it any more. May be killed at any
moment and run again: a change that was begun is finished before another one begins. The API needs no restart.
"""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass, replace

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from evidence.log.note import PublicKey, Signer
from service.errors import ServiceError
from service.keyfiles import replace_private
from service.log import usecases
from service.settings import SEED_BYTES, Settings, SettingsError, load_settings

LOCK = 0x646F75626C652D72
"""ASCII of "double-r": one change of the key at a time."""


class Refused(Exception):
    """The key can't be changed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Which key followed which."""

    retired: PublicKey
    successor: PublicKey
    index: int
    """of the entry that tells of it"""


def rotate(settings: Settings) -> Change:
    """Change the log's key, or finish the change that was begun.

    Raises:
        Refused: the log's key is not in the file, or the file can't be written.
        ServiceError: the log is not what it signed.
        SettingsError: the key file can't be read.
    """
    engine = create_engine(settings.database_url.get_secret_value(), poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as guard, Session(engine) as session:
            guard.execute(select(func.pg_advisory_xact_lock(LOCK)))
            return _rotate(settings, session)
    finally:
        engine.dispose()


def _rotate(settings: Settings, session: Session) -> Change:
    held = settings.log_signers()
    history = usecases.key_history(session, held[0].public)
    signing = next((one for one in held if one.public == history.current), None)
    if signing is None:
        raise Refused(f"the log is signed by {history.current}, which is not in the key file")
    others = [one for one in held if one is not signing]
    begun = bool(others) and others[0].public not in history.keys
    if not others or begun:
        following = others[0] if begun else replace(signing, seed=os.urandom(SEED_BYTES))
        _write(settings, signing, following)
        usecases.hand_over(session, signing, following)
        session.commit()
        history, signing = usecases.key_history(session, held[0].public), following
    # What is left of a change whose entry is durable: the retired key goes.
    _write(settings, signing)
    last = history.changes[-1]
    return Change(retired=last.retired, successor=last.successor, index=last.index)


def _write(settings: Settings, *signers: Signer) -> None:
    assert settings.log_key_file is not None, "log_signers() has read it"
    name = settings.log_key_file.read_text(encoding="ascii").split()[0]
    seeds = "".join(f"{base64.b64encode(one.seed).decode()}\n" for one in signers)
    try:
        replace_private(settings.log_key_file, f"{name}\n{seeds}")
    except OSError as error:
        raise Refused(f"{settings.log_key_file} can't be replaced: {error.strerror}") from None


def main() -> int:
    """0 when the key was changed. Prints the two public keys."""
    try:
        made = rotate(load_settings())
    except (SettingsError, Refused) as error:
        print(str(error), file=sys.stderr)
        return 2
    except ServiceError as error:
        print(error.message, file=sys.stderr)
        return 1
    except DBAPIError as error:
        print(f"the database refused: {type(error.orig).__name__}", file=sys.stderr)
        return 2
    print(f"retired   {made.retired}\nfollowed  {made.successor}\nentry     {made.index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
