-- The trigger as it was before keys that their owners hold.
CREATE OR REPLACE FUNCTION doublei_salt_after_commitment() RETURNS trigger LANGUAGE plpgsql AS $$
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
