"""The schema: equal to the models, migrated once at a time, and keeping its promises by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from migrations.config import alembic_config
from service import leases
from service.db import schema
from service.db.models import INSERT_ONLY_TABLES, Job, Verification
from service.jobs import lifecycle as jobs
from service.verifications import lifecycle as verifications

pytestmark = pytest.mark.integration


@pytest.fixture
def database(postgres_url: str) -> Engine:
    """An empty migrated database."""
    return create_engine(postgres_url, poolclass=NullPool)


def migrate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m migrations …``"""
    return subprocess.run(
        [sys.executable, "-m", "migrations", *arguments],
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
    )


def seed(connection: Connection) -> None:
    """One row of everything that others point at."""
    for statement in (
        "INSERT INTO organizations (id, name, role) VALUES ('org-1', 'o', 'owner')",
        "INSERT INTO files (id, organization_id, purpose, filename, bytes, sha256, validation)"
        " VALUES ('file-1', 'org-1', 'fine-tune', 'f', 1, 'x', '{}')",
        "INSERT INTO watermark_keys (id, organization_id, name, origin, grade, commitment, commitment_record,"
        " sealed_secret) VALUES ('wm-1', 'org-1', 'k', 'service', 'committed', 'c', '{}', '')",
    ):
        connection.execute(text(statement))


def add_job(connection: Connection, status: str) -> None:
    """A job in a status."""
    connection.execute(
        text(
            "INSERT INTO jobs (id, organization_id, status, base_model, seed, training_file_id,"
            " hyperparameters, method, metadata)"
            " VALUES ('ftjob-1', 'org-1', :status, 'm', 0, 'file-1', '{}', '{}', '{}')"
        ),
        {"status": status},
    )


def add_verification(connection: Connection, status: str) -> None:
    """A verification in a status."""
    connection.execute(
        text(
            "INSERT INTO verifications (id, organization_id, key_id, status, suspect, plan)"
            " VALUES ('verif-1', 'org-1', 'wm-1', :status, '{}', '{}')"
        ),
        {"status": status},
    )


def test_tables_and_models_agree(postgres_url: str) -> None:
    done = migrate(postgres_url, "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_that_readiness_asks_for_is_the_newest() -> None:
    """Else a forgotten migration would look ready, or a finished one never."""
    script = ScriptDirectory.from_config(alembic_config("postgresql+psycopg://"))
    assert script.get_current_head() == schema.HEAD
    assert all(len(revision.revision) == 4 for revision in script.walk_revisions())


def test_a_missing_url_is_one_clear_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "migrations", "upgrade"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("DATABASE_URL is not set")


def test_down_and_up_again_without_evidence(postgres_url: str, database: Engine) -> None:
    assert migrate(postgres_url, "downgrade", "base").returncode == 0
    with database.connect() as connection:
        left = connection.execute(
            text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'doublei_%'")
        ).scalar_one()
    assert left == 0
    assert migrate(postgres_url, "upgrade").returncode == 0
    assert migrate(postgres_url, "check").returncode == 0


def test_a_downgrade_does_not_drop_evidence(postgres_url: str, database: Engine) -> None:
    with database.begin() as connection:
        seed(connection)
        add_verification(connection, "running")
        connection.execute(
            text(
                "INSERT INTO probes_sent (verification_id, probe_index, attempt, request_body)"
                " VALUES ('verif-1', 0, 1, '')"
            )
        )
    done = migrate(postgres_url, "downgrade", "base")
    assert done.returncode == 1
    assert "probes_sent holds rows" in done.stderr
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM probes_sent")).scalar_one() == 1


def test_a_table_in_use_is_waited_for(postgres_url: str, database: Engine) -> None:
    """A reader's transaction is open for longer than a migration waits for a lock. Others get through
    meanwhile, and once it has ended the migration ends well, by itself."""
    assert migrate(postgres_url, "downgrade", "base").returncode == 0
    assert migrate(postgres_url, "upgrade", "0001").returncode == 0
    with database.connect() as reader:
        reader.execute(text("SELECT * FROM verifications")).all()
        running = subprocess.Popen(
            [sys.executable, "-m", "migrations", "upgrade"],
            env=os.environ | {"DATABASE_URL": postgres_url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stderr is not None
        assert running.stderr.readline().startswith("a table is in use; trying again (1 of")
        with database.connect() as other:
            other.execute(text("SELECT * FROM verifications")).all()
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert migrate(postgres_url, "check").returncode == 0


def test_a_table_that_stays_in_use(
    postgres_url: str, database: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the schema is as it was."""
    from migrations import __main__ as program

    assert migrate(postgres_url, "downgrade", "0001").returncode == 0
    monkeypatch.setattr(program, "ATTEMPTS", 1)
    monkeypatch.setattr(sys, "argv", ["migrations", "upgrade"])
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    with database.connect() as reader:
        reader.execute(text("SELECT * FROM verifications")).all()
        assert program.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("not migrated: a table stayed in use")
    assert said.count("\n") == 1
    with database.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "0001"


def test_the_second_of_two_says_that_it_waits(postgres_url: str, database: Engine) -> None:
    with database.connect() as first:
        first.execute(text("SELECT pg_advisory_lock(:key)"), {"key": 0x646F75626C652D69})
        second = subprocess.Popen(
            [sys.executable, "-m", "migrations", "upgrade"],
            env=os.environ | {"DATABASE_URL": postgres_url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert second.stderr.readline() == "another migration is running; waiting for it\n"
        assert second.poll() is None
    assert second.wait(60) == 0


def test_a_database_that_is_away_is_one_clear_line() -> None:
    done = migrate("postgresql+psycopg://postgres@/nowhere?host=/nonexistent", "upgrade")
    assert done.returncode == 1
    assert done.stderr.startswith("not migrated: the database can't be reached")
    assert done.stderr.count("\n") == 1


async def test_two_deployments_at_once_migrate_once(postgres_url: str) -> None:
    assert migrate(postgres_url, "downgrade", "base").returncode == 0
    both = await asyncio.gather(*(asyncio.to_thread(migrate, postgres_url, "upgrade") for _ in range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    assert migrate(postgres_url, "check").returncode == 0


class TestInsertOnly:
    @pytest.mark.parametrize("table", INSERT_ONLY_TABLES)
    @pytest.mark.parametrize(
        "verb", ["UPDATE {0} SET created_at = created_at", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"]
    )
    def test_nothing_changes_or_goes(self, database: Engine, table: str, verb: str) -> None:
        column = {
            "probes_sent": "sent_at",
            "probe_answers": "answered_at",
            "audit_events": "at",
            "log_entries": "logged_at",
            "log_nodes": "hash",
        }.get(table, "created_at")
        statement = verb.format(table).replace("created_at", column)
        with database.connect() as connection, pytest.raises(IntegrityError, match="INSERT-only"):
            connection.execute(text(statement))

    def test_not_even_as_a_replica(self, database: Engine) -> None:
        """session_replication_role, the usual way around triggers, does not help."""
        with database.connect() as connection:
            connection.execute(text("SET session_replication_role = replica"))
            with pytest.raises(IntegrityError, match="INSERT-only"):
                connection.execute(text("DELETE FROM evidence"))

    def test_an_upsert_is_an_update(self, database: Engine) -> None:
        with database.connect() as connection:
            seed(connection)
            add_verification(connection, "running")
            insert = (
                "INSERT INTO probe_answers (verification_id, probe_index, attempt, outcome, latency_ms)"
                " VALUES ('verif-1', 0, 1, 'answered', 5) ON CONFLICT"
            )
            connection.execute(text(f"{insert} DO NOTHING"))
            with pytest.raises(IntegrityError, match="INSERT-only"):
                connection.execute(
                    text(f"{insert} (verification_id, probe_index, attempt) DO UPDATE SET outcome = 'x'")
                )


class TestLifecycles:
    @pytest.mark.parametrize("before", list(jobs.JobStatus))
    def test_the_database_allows_exactly_the_moves_of_a_job(
        self, database: Engine, before: jobs.JobStatus
    ) -> None:
        with database.begin() as connection:
            seed(connection)
            add_job(connection, before)
        for after in jobs.JobStatus:
            allowed = after in jobs.TRANSITIONS[before] or after is before
            assert moves(database, "jobs", after) is allowed, (before, after)

    @pytest.mark.parametrize("before", list(verifications.VerificationStatus))
    def test_the_database_allows_exactly_the_moves_of_a_verification(
        self, database: Engine, before: verifications.VerificationStatus
    ) -> None:
        with database.begin() as connection:
            seed(connection)
            add_verification(connection, before)
        for after in verifications.VerificationStatus:
            allowed = after in verifications.TRANSITIONS[before] or after is before
            assert moves(database, "verifications", after) is allowed, (before, after)

    @pytest.mark.parametrize(
        ("status", "change"),
        list(
            itertools.product(
                sorted(jobs.TERMINAL),
                [
                    "fine_tuned_model = 'x'",
                    'error = \'{"code": "x"}\'',
                    "finished_at = now()",
                    "trained_tokens = 1",
                ],
            )
        ),
    )
    def test_what_a_finished_job_says_does_not_change(
        self, database: Engine, status: str, change: str
    ) -> None:
        with database.connect() as connection:
            seed(connection)
            add_job(connection, status)
            with pytest.raises(IntegrityError, match="for good"):
                connection.execute(text(f"UPDATE jobs SET {change}"))

    def test_a_verdict_does_not_change(self, database: Engine) -> None:
        with database.connect() as connection:
            seed(connection)
            add_verification(connection, "succeeded")
            with pytest.raises(IntegrityError, match="for good"):
                connection.execute(text("UPDATE verifications SET verdict = 'detected'"))

    @pytest.mark.parametrize("table", ["jobs", "verifications"])
    def test_the_fencing_epoch_never_goes_back(self, database: Engine, table: str) -> None:
        with database.connect() as connection:
            seed(connection)
            add_job(connection, "running")
            add_verification(connection, "running")
            connection.execute(text(f"UPDATE {table} SET lease_epoch = 5"))
            with pytest.raises(IntegrityError, match="epoch never goes back"):
                connection.execute(text(f"UPDATE {table} SET lease_epoch = 4"))

    def test_a_status_outside_the_vocabulary_is_refused(self, database: Engine) -> None:
        with database.connect() as connection:
            seed(connection)
            with pytest.raises(IntegrityError, match="ck_jobs_status"):
                add_job(connection, "resting")


def moves(database: Engine, table: str, status: str) -> bool:
    """Would the database take this status now? Nothing is kept."""
    with database.connect() as connection:
        try:
            connection.execute(text(f"UPDATE {table} SET status = :status"), {"status": status})
        except IntegrityError:
            return False
        finally:
            connection.rollback()
    return True


@pytest.mark.parametrize("table", ["jobs", "verifications"])
def test_the_reaper_finds_what_is_unfinished_without_reading_what_has_ended(
    database: Engine, table: str
) -> None:
    columns = {
        "jobs": "organization_id, base_model, seed, training_file_id, hyperparameters, method, metadata",
        "verifications": "organization_id, key_id, suspect, plan",
    }
    values = {
        "jobs": "'org-1', 'm', 0, 'file-1', '{}', '{}', '{}'",
        "verifications": "'org-1', 'wm-1', '{}', '{}'",
    }
    with database.begin() as connection:
        seed(connection)
        connection.execute(
            text(
                f"INSERT INTO {table} (id, status, {columns[table]}) SELECT 'x-' || n,"
                f" CASE WHEN n % 1000 = 0 THEN 'queued' ELSE 'failed' END, {values[table]}"
                " FROM generate_series(1, 20000) n"
            )
        )
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ANALYZE {table}"))
        entity = Job if table == "jobs" else Verification
        for statement in (
            leases.overdue(entity, older_than_seconds=3, limit=100),
            leases.reap_expired(entity),
            leases.reap_cancelled(entity),
        ):
            compiled = statement.compile(database)
            found = connection.exec_driver_sql("EXPLAIN " + str(compiled), dict(compiled.params))
            plan = "\n".join(found.scalars())
            assert f"ix_{table}_claimable" in plan, plan


def test_an_index_that_was_left_half_built_is_built_again(postgres_url: str, database: Engine) -> None:
    """CREATE INDEX CONCURRENTLY that fails leaves one that nobody uses and everybody keeps up."""
    name = "ix_verifications_claimable"
    assert migrate(postgres_url, "downgrade", "0008").returncode == 0
    with database.begin() as connection:
        connection.execute(text(f"CREATE INDEX {name} ON verifications (status)"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST(:name AS regclass)"),
            {"name": name},
        )
    done = migrate(postgres_url, "upgrade")
    assert done.returncode == 0, done.stderr
    with database.connect() as connection:
        valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = CAST(:name AS regclass)")
        assert connection.execute(valid, {"name": name}).scalar_one()
    assert migrate(postgres_url, "check").returncode == 0


async def test_it_waits_for_a_transaction_that_writes(postgres_url: str, database: Engine) -> None:
    """Live traffic goes on meanwhile: nobody waits for the migration."""
    assert migrate(postgres_url, "downgrade", "0008").returncode == 0
    with database.connect() as writer, writer.begin():
        seed(writer)
        add_verification(writer, "running")
        running = asyncio.create_task(asyncio.to_thread(migrate, postgres_url, "upgrade"))
        await asyncio.sleep(2)
        with database.begin() as other:
            other.execute(text("SET LOCAL lock_timeout = '500ms'"))
            other.execute(text("UPDATE verifications SET attempt = attempt"))
            other.execute(text("INSERT INTO organizations (id, name, role) VALUES ('org-9', 'o', 'owner')"))
    done = await running
    assert done.returncode == 0, done.stderr
