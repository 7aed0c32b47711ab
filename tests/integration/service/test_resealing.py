"""The key-encryption key is changed while everything runs, also by a process that is killed on the way."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service.db.models import Base, Organization, Verification, WatermarkKey
from service.resealing import LEFT_BEHIND, PLACES, Refused, Report, drop, rotate, status
from service.sealing import SealBroken, Sealer, sealed_under
from service.settings import Settings, SettingsError

pytestmark = pytest.mark.integration

KEYS, CREDENTIALS = 40, 20
SECRET = b"secret of "


def names(table: str, identifier: str) -> dict[str, str]:
    purpose = {"watermark_keys": "watermark-secret", "verifications": "suspect-credential"}[table]
    return {"purpose": purpose, "owner": "org-1", "subject": identifier}


def add(session: Session, sealer: Sealer, identifier: str) -> None:
    sealed = sealer.seal(SECRET + identifier.encode(), **names("watermark_keys", identifier))
    session.add(
        WatermarkKey(
            id=identifier, organization_id="org-1", name="k", origin="service", grade="committed",
            commitment="c", commitment_record={}, sealed_secret=sealed,
        )
    )  # fmt: skip


@pytest.fixture
def sealed(database: Engine, settings: Settings) -> None:
    """Keys and credentials under the first key; one of each was deleted."""
    sealer = Sealer.from_settings(settings)
    with Session(database) as session, session.begin():
        session.add(Organization(id="org-1", name="o", role="owner"))
        session.flush()
        for number in range(KEYS):
            add(session, sealer, f"wm-{number:03}")
        session.flush()
        for number in range(CREDENTIALS):
            identifier = f"verif-{number:03}"
            place = names("verifications", identifier)
            session.add(
                Verification(
                    id=identifier, organization_id="org-1", key_id="wm-000", status="queued", suspect={},
                    plan={}, sealed_credential=sealer.seal(SECRET + identifier.encode(), **place),
                )
            )  # fmt: skip
        session.flush()
        session.execute(text("UPDATE watermark_keys SET sealed_secret = '' WHERE id = 'wm-005'"))
        session.execute(text("UPDATE verifications SET sealed_credential = NULL WHERE id = 'verif-005'"))


LEFT = KEYS + CREDENTIALS - 2


def values(database: Engine) -> Iterator[tuple[str, str, bytes]]:
    """Table, id and sealed value of everything that is not deleted."""
    with database.connect() as connection:
        for place in PLACES:
            table, column = place.table.__tablename__, place.column.key
            rows = connection.execute(text(f"SELECT id, {column} FROM {table} WHERE length({column}) > 0"))
            yield from ((table, row[0], row[1]) for row in rows)


def everything_opens(database: Engine, sealer: Sealer) -> None:
    found = list(values(database))
    assert len(found) >= LEFT
    for table, identifier, sealed in found:
        assert sealer.open(sealed, **names(table, identifier)) == SECRET + identifier.encode()


def under(database: Engine) -> set[bytes]:
    return {sealed_under(sealed) for _, _, sealed in values(database)}


def lines(settings: Settings) -> list[str]:
    return settings.kek_file.read_text().split()


def test_every_sealed_column_is_known() -> None:
    """A new one would be lost with the old key."""
    columns = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name.startswith("sealed")
    }
    known = {(place.table.__tablename__, place.column.key) for place in PLACES}
    assert known | LEFT_BEHIND == columns
    assert not known & LEFT_BEHIND


def test_a_posts_name_stays_the_same_until_the_old_key_is_dropped(settings: Settings) -> None:
    """So a request that comes again during the change is still known."""
    running = Sealer.from_settings(settings)
    before = running.fingerprint(b"key", b"1")
    rotate(settings)
    assert running.fingerprint(b"key", b"1") == before
    assert Sealer.from_settings(settings).fingerprint(b"key", b"1") == before
    drop(settings, settling_seconds=0)
    assert running.fingerprint(b"key", b"1") == Sealer.from_settings(settings).fingerprint(b"key", b"1")
    assert running.fingerprint(b"key", b"1") != before


@pytest.mark.usefixtures("sealed")
def test_the_key_is_changed(database: Engine, settings: Settings) -> None:
    """Both keys open in between; in the end the old one opens nothing and is not in the file."""
    (old,) = lines(settings)
    before = Sealer.from_settings(settings)
    report = rotate(settings, batch_rows=7)
    assert (report.resealed, report.unreadable) == (LEFT, [])
    new, kept = lines(settings)
    assert kept == old
    assert os.stat(settings.kek_file).st_mode & 0o777 == 0o600
    everything_opens(database, Sealer.from_settings(settings))
    everything_opens(database, before)
    assert under(database) == {Sealer(base64.b64decode(new)).kek_id}
    with pytest.raises(Refused, match="try again in"):
        drop(settings)
    assert drop(settings, settling_seconds=0) is True
    assert lines(settings) == [new]
    everything_opens(database, Sealer.from_settings(settings))
    with pytest.raises(SealBroken):
        everything_opens(database, Sealer(base64.b64decode(old)))
    assert drop(settings, settling_seconds=0) is False
    with database.connect() as connection:
        gone = connection.execute(text("SELECT sealed_secret FROM watermark_keys WHERE id = 'wm-005'"))
        assert gone.scalar_one() == b""


@pytest.mark.usefixtures("sealed")
def test_what_is_sealed_under_the_old_key_meanwhile_is_found(database: Engine, settings: Settings) -> None:
    """By a process that had not seen the new one. The old key stays until that is sealed again."""
    blind = Sealer.from_base64(settings.kek)
    rotate(settings)
    with Session(database) as session, session.begin():
        add(session, blind, "wm-late")
    with pytest.raises(Refused, match="1 values still lie under another key"):
        drop(settings, settling_seconds=0)
    assert len(lines(settings)) == 2
    assert rotate(settings).resealed == 1
    assert drop(settings, settling_seconds=0) is True
    everything_opens(database, Sealer.from_settings(settings))


@pytest.mark.usefixtures("sealed")
def test_the_old_key_is_not_dropped_under_somebody_who_is_writing(
    database: Engine, settings: Settings
) -> None:
    blind = Sealer.from_base64(settings.kek)
    rotate(settings)
    outcome: list[object] = []

    def dropping() -> None:
        try:
            outcome.append(drop(settings, settling_seconds=0))
        except Refused as error:
            outcome.append(error)

    with Session(database) as session, session.begin():
        add(session, blind, "wm-late")
        session.flush()
        thread = threading.Thread(target=dropping)
        thread.start()
        time.sleep(0.5)
        assert outcome == []
    thread.join()
    assert isinstance(outcome[0], Refused)
    assert len(lines(settings)) == 2


@pytest.mark.usefixtures("sealed")
def test_a_sealer_sees_the_change_without_a_restart(database: Engine, settings: Settings) -> None:
    running = Sealer.from_settings(settings)
    first = running.kek_id
    rotate(settings)
    assert sealed_under(running.seal(b"x", purpose="p", owner="o", subject="s")) != first
    drop(settings, settling_seconds=0)
    everything_opens(database, running)


@pytest.mark.usefixtures("sealed")
def test_a_value_that_does_not_open_is_named_and_holds_the_old_key(
    database: Engine, settings: Settings
) -> None:
    with database.begin() as connection:
        connection.execute(
            text("UPDATE watermark_keys SET sealed_secret = sealed_secret || '\\x00' WHERE id = 'wm-007'")
        )
    report = rotate(settings, batch_rows=5)
    assert (report.resealed, report.unreadable) == (LEFT - 1, ["watermark_keys wm-007"])
    assert rotate(settings) == Report(resealed=0, unreadable=["watermark_keys wm-007"])
    with pytest.raises(Refused):
        drop(settings, settling_seconds=0)
    assert sorted(status(settings).values()) == [1, LEFT - 1]


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize("row", ["wm-000", "wm-010", "wm-039", "verif-010"])
def test_killed_in_the_middle_and_run_again(database: Engine, settings: Settings, row: str) -> None:
    """It is held at a row by a lock, and killed there: what was committed stays, the rest is as it was."""
    table = "watermark_keys" if row.startswith("wm") else "verifications"
    with database.connect() as connection, connection.begin():
        connection.execute(text(f"SELECT 1 FROM {table} WHERE id = '{row}' FOR UPDATE"))
        process = rotating(settings, batch_rows=3)
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with database.connect() as looking:
            deadline = time.monotonic() + 60
            while not looking.execute(text(waits)).scalar_one():
                assert process.poll() is None, "it ended"
                assert time.monotonic() < deadline, "it was never held up"
                looking.rollback()
                time.sleep(0.05)
        process.kill()
        process.wait()
    assert len(lines(settings)) == 2
    assert len(under(database)) == (1 if row == "wm-000" else 2)
    everything_opens(database, Sealer.from_settings(settings))
    done = sum(sealed_under(one) == Sealer.from_settings(settings).kek_id for _, _, one in values(database))
    again = run(settings, "rotate")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{LEFT - done} values were sealed again")
    assert len(lines(settings)) == 2
    assert drop(settings, settling_seconds=0) is True
    everything_opens(database, Sealer.from_settings(settings))
    assert len(under(database)) == 1


SLOWLY = """
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
    CREATE TRIGGER slowly BEFORE UPDATE ON watermark_keys FOR EACH ROW EXECUTE FUNCTION slowly();
    CREATE TRIGGER slowly BEFORE UPDATE ON verifications FOR EACH ROW EXECUTE FUNCTION slowly();
"""


@pytest.mark.usefixtures("sealed")
def test_killed_again_and_again(database: Engine, settings: Settings) -> None:
    """Each time some milliseconds after it began to write: every value opens, and the next run goes on."""
    with database.begin() as connection:
        connection.execute(text(SLOWLY))
    done: list[int] = []
    for milliseconds in (0, 5, 13, 31, 77, 150):
        before = changed(database, settings)
        process = rotating(settings, batch_rows=2)
        deadline = time.monotonic() + 60
        while len(lines(settings)) == 1 or changed(database, settings) == before:
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it did nothing"
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
        everything_opens(database, Sealer.from_settings(settings))
        done.append(changed(database, settings))
    assert done == sorted(set(done))
    assert done[-1] < LEFT, "the last one was killed before its end too"
    assert run(settings, "rotate").returncode == 0
    assert drop(settings, settling_seconds=0) is True
    everything_opens(database, Sealer.from_settings(settings))


def changed(database: Engine, settings: Settings) -> int:
    """How many values lie under the key that seals now."""
    current = Sealer.from_settings(settings).kek_id
    return sum(sealed_under(sealed) == current for _, _, sealed in values(database)) % LEFT


def rotating(settings: Settings, *, batch_rows: int) -> psutil.Popen:
    return psutil.Popen(
        [sys.executable, "-m", "service.resealing", "rotate", "--batch-rows", str(batch_rows)],
        env=environment(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.usefixtures("sealed")
def test_one_at_a_time(database: Engine, settings: Settings) -> None:
    with database.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": 0x646F75626C652D6B})
        with pytest.raises(Refused, match="another process"):
            rotate(settings)
    assert len(lines(settings)) == 1


def test_as_a_program(settings: Settings, database: Engine) -> None:
    assert "seals and opens" in run(settings, "status").stdout
    assert run(settings, "drop").stdout.startswith("there is one key-encryption key")
    settings.kek_file.write_text("not base64!")
    outcome = run(settings, "rotate")
    assert (outcome.returncode, outcome.stderr.count("\n")) == (2, 1)
    assert "DOUBLEI_KEK_FILE" in outcome.stderr


@pytest.mark.parametrize("text_of_file", ["", "AAAA", "A" * 43 + "=\nAAAA"])
def test_a_file_of_something_else_is_refused(settings: Settings, text_of_file: str) -> None:
    settings.kek_file.write_text(text_of_file)
    with pytest.raises(SettingsError, match="DOUBLEI_KEK_FILE"):
        rotate(settings)
    assert settings.kek_file.read_text() == text_of_file


def environment(settings: Settings) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "DOUBLEI_STORAGE_DIR": str(settings.storage_dir),
        "DOUBLEI_KEK_FILE": str(settings.kek_file),
        "DOUBLEI_LOG_KEY_FILE": str(settings.log_key_file),
        "DOUBLEI_SERVING_URL": settings.serving_url,
        "DOUBLEI_SERVING_TOKEN_FILE": str(settings.serving_token_file),
    }


def run(settings: Settings, action: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.resealing", action],
        env=environment(settings),
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
