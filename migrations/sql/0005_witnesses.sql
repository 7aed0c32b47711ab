-- Triggers of the witnesses. As in 0001, ALWAYS: session_replication_role does not switch them off.

CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON log_cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION doublei_insert_only();
ALTER TABLE log_cosignatures ENABLE ALWAYS TRIGGER insert_only;

-- A witness that forgets, or goes back, would cosign a second history.
CREATE FUNCTION doublei_witness_never_goes_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'table % is never forgotten: % refused', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.origin <> OLD.origin OR NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root <> OLD.root) THEN
        RAISE EXCEPTION 'what was witnessed of % never goes back', OLD.origin USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER never_goes_back BEFORE UPDATE OR DELETE ON witnessed_logs
    FOR EACH ROW EXECUTE FUNCTION doublei_witness_never_goes_back();
ALTER TABLE witnessed_logs ENABLE ALWAYS TRIGGER never_goes_back;
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON witnessed_logs
    FOR EACH STATEMENT EXECUTE FUNCTION doublei_witness_never_goes_back();
ALTER TABLE witnessed_logs ENABLE ALWAYS TRIGGER never_emptied;
