-- What the application promises, kept by the database: evidence only grows, a finished job stays
-- finished, and a key's salt comes after its commitment. ENABLE ALWAYS: session_replication_role does
-- not switch these off. A superuser still can (docs/threat-model.md).

CREATE FUNCTION doublei_insert_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is INSERT-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

-- Per statement, so that it answers even where no row would match.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['preregistrations', 'probes_sent', 'probe_answers', 'evidence', 'job_events']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION doublei_insert_only()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER insert_only', name);
    END LOOP;
END $$;

-- The pairs are service.jobs.lifecycle.TRANSITIONS; a test compares every pair.
CREATE FUNCTION doublei_job_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled') AND
        (NEW.status, NEW.error, NEW.fine_tuned_model, NEW.trained_tokens, NEW.finished_at) IS DISTINCT FROM
        (OLD.status, OLD.error, OLD.fine_tuned_model, OLD.trained_tokens, OLD.finished_at)
    THEN
        RAISE EXCEPTION 'job % is % for good', OLD.id, OLD.status USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('validating_files', 'queued'), ('validating_files', 'failed'), ('validating_files', 'cancelled'),
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'))
    THEN
        RAISE EXCEPTION 'job %: no move from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.lease_epoch < OLD.lease_epoch THEN
        RAISE EXCEPTION 'job %: the fencing epoch never goes back', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER lifecycle BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION doublei_job_lifecycle();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER lifecycle;

-- The pairs are service.verifications.lifecycle.TRANSITIONS; a test compares every pair.
CREATE FUNCTION doublei_verification_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled') AND
        (NEW.status, NEW.verdict, NEW.reasons, NEW.result, NEW.error, NEW.finished_at) IS DISTINCT FROM
        (OLD.status, OLD.verdict, OLD.reasons, OLD.result, OLD.error, OLD.finished_at)
    THEN
        RAISE EXCEPTION 'verification % is % for good', OLD.id, OLD.status USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'))
    THEN
        RAISE EXCEPTION 'verification %: no move from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.lease_epoch < OLD.lease_epoch THEN
        RAISE EXCEPTION 'verification %: the fencing epoch never goes back', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER lifecycle BEFORE UPDATE ON verifications
    FOR EACH ROW EXECUTE FUNCTION doublei_verification_lifecycle();
ALTER TABLE verifications ENABLE ALWAYS TRIGGER lifecycle;

-- A key is committed first, without a salt; the salt is set once, by a later transaction. A row's xmin is
-- the transaction that wrote this version of it: were it ours, the commitment would not be durable yet.
CREATE FUNCTION doublei_salt_after_commitment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    written_by text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.salt IS NOT NULL THEN
            RAISE EXCEPTION 'a watermark key is inserted without a salt' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.id, NEW.organization_id, NEW.origin, NEW.grade, NEW.commitment, NEW.commitment_record, NEW.created_at)
        IS DISTINCT FROM
        (OLD.id, OLD.organization_id, OLD.origin, OLD.grade, OLD.commitment, OLD.commitment_record, OLD.created_at)
    THEN
        RAISE EXCEPTION 'a commitment never changes' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.salt IS DISTINCT FROM OLD.salt THEN
        IF OLD.salt IS NOT NULL THEN
            RAISE EXCEPTION 'a salt never changes' USING ERRCODE = 'check_violation';
        END IF;
        EXECUTE format('SELECT xmin::text FROM %I.%I WHERE id = $1', TG_TABLE_SCHEMA, TG_TABLE_NAME)
            INTO written_by USING OLD.id;
        IF written_by = pg_current_xact_id()::xid::text THEN
            RAISE EXCEPTION 'the salt must come after the commitment is durable' USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER salt_after_commitment BEFORE INSERT OR UPDATE ON watermark_keys
    FOR EACH ROW EXECUTE FUNCTION doublei_salt_after_commitment();
ALTER TABLE watermark_keys ENABLE ALWAYS TRIGGER salt_after_commitment;
