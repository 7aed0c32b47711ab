"""Triggers of the benchmark's own, laid over the product's tables: every write to a job and to what hangs on
it, with the run that says it made the write and the epoch that the job then had.

A run names itself (`benchmarks.chaos.worker.label_writes`); writes of the API and the reaper name nobody.
"""

from __future__ import annotations

import psycopg

WATCHED = ("job_events", "training_states", "checkpoints", "models")

_STATEMENTS = (
    """
    CREATE TABLE chaos_writes (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        table_name text NOT NULL, operation text NOT NULL, job_id text NOT NULL, writer text,
        epoch bigint, old_epoch bigint, status text, old_status text, attempt int,
        step int, old_step int, outcome text, old_outcome text
    )
    """,
    # What a job's end says; it may never change once the job has ended.
    """
    CREATE FUNCTION chaos_outcome(job jobs) RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT concat_ws('|', job.fine_tuned_model, job.error ->> 'code', job.finished_at::text,
                         job.trained_tokens::text)
    $$
    """,
    """
    CREATE FUNCTION chaos_saw_job() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_writes (table_name, operation, job_id, writer, epoch, old_epoch, status, old_status,
                                  attempt, step, old_step, outcome, old_outcome)
        VALUES ('jobs', TG_OP, NEW.id, nullif(current_setting('chaos.run', true), ''),
                NEW.lease_epoch, OLD.lease_epoch, NEW.status, OLD.status, NEW.attempt,
                (NEW.progress ->> 'step')::int, (OLD.progress ->> 'step')::int,
                chaos_outcome(NEW), CASE WHEN TG_OP = 'UPDATE' THEN chaos_outcome(OLD) END);
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION chaos_saw_part() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE job text := CASE WHEN TG_OP = 'DELETE' THEN OLD.job_id ELSE NEW.job_id END;
    BEGIN
        INSERT INTO chaos_writes (table_name, operation, job_id, writer, epoch, status)
        SELECT TG_TABLE_NAME, TG_OP, job, nullif(current_setting('chaos.run', true), ''), lease_epoch, status
        FROM jobs WHERE id = job;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION chaos_saw_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_writes (table_name, operation, job_id, writer, epoch)
        SELECT TG_TABLE_NAME, TG_OP, id, nullif(current_setting('chaos.run', true), ''), lease_epoch
        FROM jobs WHERE id = NEW.subject;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER chaos AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION chaos_saw_job()",
    "CREATE TRIGGER chaos AFTER INSERT ON log_entries FOR EACH ROW EXECUTE FUNCTION chaos_saw_entry()",
    *(
        f"CREATE TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION chaos_saw_part()"
        for table in WATCHED
    ),
)


def install(connection: psycopg.Connection) -> None:
    """Once, on the migrated database, before any job."""
    for statement in _STATEMENTS:
        connection.execute(statement.encode())
    connection.commit()
