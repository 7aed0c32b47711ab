-- As in 0001, with jobs that are paused. The pairs are service.jobs.lifecycle.TRANSITIONS; a test compares every pair.
CREATE OR REPLACE FUNCTION doublei_job_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('succeeded', 'failed', 'cancelled') AND
        (NEW.status, NEW.error, NEW.fine_tuned_model, NEW.trained_tokens, NEW.finished_at) IS DISTINCT FROM
        (OLD.status, OLD.error, OLD.fine_tuned_model, OLD.trained_tokens, OLD.finished_at)
    THEN
        RAISE EXCEPTION 'job % is % for good', OLD.id, OLD.status USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('validating_files', 'queued'), ('validating_files', 'failed'), ('validating_files', 'cancelled'),
        ('queued', 'running'), ('queued', 'paused'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'), ('running', 'queued'),
        ('running', 'paused'), ('paused', 'queued'), ('paused', 'cancelled'))
    THEN
        RAISE EXCEPTION 'job %: no move from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.lease_epoch < OLD.lease_epoch THEN
        RAISE EXCEPTION 'job %: the fencing epoch never goes back', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

