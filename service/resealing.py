"""``python -m service.resealing``: changing the key-encryption key while everything runs.

``rotate`` puts a new key above the old one in the key file, which makes it the one that seals, and seals
again what lies under the old one, some rows a transaction. ``drop`` takes the old key out of the file once
nothing lies under it. Both may be killed at any moment and run again: the file and the rows say what is left.
``status`` says how far it is.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, Function, Select, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.pool import NullPool

from service.db.models import IdempotencyRecord, Verification, WatermarkKey
from service.keyfiles import replace_private
from service.sealing import HEADER_BYTES, KEK_ID_BYTES, KEY_BYTES, SealBroken, Sealer
from service.settings import Settings, SettingsError, load_settings
from service.verifications.openings import PURPOSE as OPENING_PURPOSE
from service.verifications.suspects import CREDENTIAL_PURPOSE
from service.watermarks.secrets import PURPOSE as WATERMARK_PURPOSE

LOCK = 0x646F75626C652D6B
"""ASCII of "double-k": one change of the key at a time."""
BATCH_ROWS = 100
SETTLING_SECONDS = 60.0
"""How old the new key must be before the old one is dropped: what was sealed under the old one just before
has long been written, for nothing waits so long between sealing and its commit."""
LOCK_TIMEOUT_MILLISECONDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A column of sealed values, each bound to its row's ``id`` and ``organization_id``."""

    table: type[WatermarkKey] | type[Verification]
    column: InstrumentedAttribute[bytes] | InstrumentedAttribute[bytes | None]
    purpose: str


PLACES = (
    Place(table=WatermarkKey, column=WatermarkKey.sealed_secret, purpose=WATERMARK_PURPOSE),
    Place(table=Verification, column=Verification.sealed_credential, purpose=CREDENTIAL_PURPOSE),
    Place(table=Verification, column=Verification.sealed_opening, purpose=OPENING_PURPOSE),
)

LEFT_BEHIND = frozenset({(IdempotencyRecord.__tablename__, IdempotencyRecord.sealed_answer.key)})
"""Sealed, and not sealed again: answers to POSTs, kept for a day. Their names are made with the old key too,
so that they are found until it is dropped, and by nobody afterwards."""


@dataclass(slots=True)
class Report:
    """What a run did."""

    resealed: int = 0
    unreadable: list[str] = field(default_factory=list)
    """table and id of what did not open; it was left as it is"""


class Refused(Exception):
    """The key can't be changed now; the message says why."""


def rotate(
    settings: Settings, *, batch_rows: int = BATCH_ROWS, told: Callable[[int, int], None] | None = None
) -> Report:
    """Begin a change of the key, or go on with the one that is under way, until nothing lies under another
    key than the first one of the file.

    Args:
        told: called after each transaction with the rows done and the rows that there were to do.

    Raises:
        Refused: another process is at it, or the key file can't be written.
        SettingsError: the key file can't be read.
    """
    with _alone(settings) as connection:
        keys = _keys(settings)
        if len(keys) == 1:
            _write(settings, [base64.b64encode(os.urandom(KEY_BYTES)).decode(), *keys])
        sealer = Sealer.from_settings(settings)
        report = Report()
        with connection.begin():
            to_do = sum(_left(connection, sealer.kek_id).values())
        # Processes that had not looked at the file yet may have sealed under the old key meanwhile.
        while _pass(connection, sealer, batch_rows, report, lambda: told and told(report.resealed, to_do)):
            pass
        return report


def drop(settings: Settings, *, settling_seconds: float = SETTLING_SECONDS) -> bool:
    """Take the old key out of the file; False: there was none.

    Raises:
        Refused: something lies under it, or may be on its way there; or another process is at it.
        SettingsError: the key file can't be read.
    """
    with _alone(settings) as connection:
        keys = _keys(settings)
        if len(keys) == 1:
            return False
        age = time.time() - settings.kek_file.stat().st_mtime
        if age < settling_seconds:
            raise Refused(f"the new key is {age:.0f} s old: try again in {settling_seconds - age:.0f} s")
        sealer = Sealer.from_settings(settings)
        names = ", ".join(dict.fromkeys(place.table.__tablename__ for place in PLACES))
        with connection.begin():
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
            # Waits for whoever is writing and lets nobody begin: what is counted is all that there is.
            connection.execute(text(f"LOCK TABLE {names} IN SHARE MODE"))
            left = sum(_left(connection, sealer.kek_id).values())
            if left:
                raise Refused(f"{left} values still lie under another key: rotate again first")
            _write(settings, keys[:1])
        return True


def status(settings: Settings) -> dict[str, int]:
    """How many values lie under each key, by the key's id in hex; keys of the file come first.

    Raises:
        SettingsError: the key file can't be read.
    """
    counts = {one.hex(): 0 for one in Sealer.from_base64(settings.kek).kek_ids}
    engine = create_engine(settings.database_url.get_secret_value(), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            for found, count in _left(connection, None).items():
                counts[found.hex()] = counts.get(found.hex(), 0) + count
    finally:
        engine.dispose()
    return counts


def _pass(
    connection: Connection, sealer: Sealer, batch_rows: int, report: Report, told: Callable[[], object]
) -> bool:
    """Once over every place; whether anything was sealed again."""
    before = report.resealed
    report.unreadable.clear()
    for place in PLACES:
        after = ""
        while True:
            with connection.begin():
                rows = connection.execute(_batch(place, sealer.kek_id, after, batch_rows)).all()
                for identifier, owner, sealed in rows:
                    names = {"purpose": place.purpose, "owner": owner, "subject": identifier}
                    try:
                        fresh = sealer.seal(sealer.open(sealed, **names), **names)
                    except SealBroken:
                        report.unreadable.append(f"{place.table.__tablename__} {identifier}")
                        continue
                    connection.execute(
                        place.table.__table__.update()  # type: ignore[attr-defined]
                        .where(place.table.id == identifier)
                        .values({place.column.key: fresh})
                    )
                    report.resealed += 1
            if not rows:
                break
            after = rows[-1][0]
            told()
    return report.resealed > before


def _batch(place: Place, current: bytes, after: str, limit: int) -> Select[str, str, bytes]:
    """The next rows that lie under another key, locked until the transaction ends: a key that is deleted
    meanwhile stays deleted."""
    return (
        select(place.table.id, place.table.organization_id, place.column)  # type: ignore[return-value]
        .where(_sealed(place), _key_of(place) != current, place.table.id > after)
        .order_by(place.table.id)
        .limit(limit)
        .with_for_update()
    )


def _left(connection: Connection, current: bytes | None) -> dict[bytes, int]:
    """How many values lie under each key; without those under ``current``."""
    counts: dict[bytes, int] = {}
    for place in PLACES:
        key = _key_of(place)
        found = select(key, func.count()).where(_sealed(place)).group_by(key)
        if current is not None:
            found = found.where(key != current)
        for under, count in connection.execute(found):
            counts[under] = counts.get(under, 0) + count
    return counts


def _sealed(place: Place) -> ColumnElement[bool]:
    """A secret that was deleted is empty or absent."""
    return func.octet_length(place.column) > 0


def _key_of(place: Place) -> Function[bytes]:
    return func.substring(place.column, HEADER_BYTES - KEK_ID_BYTES + 1, KEK_ID_BYTES)


@contextmanager
def _alone(settings: Settings) -> Iterator[Connection]:
    engine = create_engine(settings.database_url.get_secret_value(), poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            with connection.begin():
                # Of the session: it holds over the transactions and ends with the connection.
                mine = connection.execute(select(func.pg_try_advisory_lock(LOCK))).scalar_one()
            if not mine:
                raise Refused("another process is changing the key-encryption key")
            yield connection
    finally:
        engine.dispose()


def _keys(settings: Settings) -> list[str]:
    return settings.kek.get_secret_value().split()


def _write(settings: Settings, keys: list[str]) -> None:
    try:
        replace_private(settings.kek_file, "".join(f"{key}\n" for key in keys))
    except OSError as error:
        raise Refused(f"{settings.kek_file} can't be replaced: {error.strerror}") from None


def main() -> int:
    """0 when it is done, 1 when something is left to do or did not open, 2 when it could not begin."""
    parser = argparse.ArgumentParser(prog="python -m service.resealing")
    parser.add_argument("action", choices=("rotate", "drop", "status"))
    parser.add_argument("--batch-rows", type=int, default=BATCH_ROWS)
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        return _run(settings, arguments.action, arguments.batch_rows)
    except (SettingsError, Refused) as error:
        print(str(error), file=sys.stderr)
    except DBAPIError as error:
        print(f"the database refused: {type(error.orig).__name__}", file=sys.stderr)
    return 2


def _run(settings: Settings, action: str, batch_rows: int) -> int:
    if action == "drop":
        dropped = drop(settings)
        print("the old key is gone" if dropped else "there is one key-encryption key: nothing to drop")
        return 0
    if action == "status":
        held = [one.hex() for one in Sealer.from_base64(settings.kek).kek_ids]
        for number, (name, count) in enumerate(status(settings).items()):
            role = (
                "not in the key file" if name not in held else "seals and opens" if number == 0 else "opens"
            )
            print(f"{name}  {count} values  {role}")
        return 0

    def told(done: int, to_do: int) -> None:
        print(f"sealed again: {done} of {max(done, to_do)}", file=sys.stderr, flush=True)

    report = rotate(settings, batch_rows=batch_rows, told=told)
    for one in report.unreadable:
        print(f"does not open and was left: {one}", file=sys.stderr)
    print(
        f"{report.resealed} values were sealed again under the new key; until it is dropped the old one opens"
    )
    return 1 if report.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
