-- The verification lifecycle as it was before states of waiting.
CREATE OR REPLACE FUNCTION doublei_verification_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
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
