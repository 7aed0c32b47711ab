-- Triggers of the audit protocol's tables. As in 0001, ALWAYS: session_replication_role does not switch them off.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['campaigns', 'nonce_reveals', 'verification_looks', 'audit_events']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION doublei_insert_only()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER insert_only', name);
    END LOOP;
END $$;

-- The pairs are service.verifications.lifecycle.TRANSITIONS; a test compares every pair.
CREATE OR REPLACE FUNCTION doublei_verification_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled') AND
        (NEW.status, NEW.verdict, NEW.reasons, NEW.result, NEW.error, NEW.finished_at) IS DISTINCT FROM
        (OLD.status, OLD.verdict, OLD.reasons, OLD.result, OLD.error, OLD.finished_at)
    THEN
        RAISE EXCEPTION 'verification % is % for good', OLD.id, OLD.status USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('awaiting_nonce', 'queued'), ('awaiting_nonce', 'cancelled'),
        ('paused', 'queued'), ('paused', 'cancelled'),
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'),
        ('running', 'paused'))
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
