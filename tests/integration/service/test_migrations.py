"""The schema: equal to the models, migrated once at a time, and keeping its promises by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from service.db.models import INSERT_ONLY_TABLES
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
