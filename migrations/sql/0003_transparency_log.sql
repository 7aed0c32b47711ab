-- Triggers of the transparency log. As in 0001, ALWAYS: session_replication_role does not switch them off.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['log_entries', 'log_nodes', 'log_checkpoints']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION doublei_insert_only()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER insert_only', name);
    END LOOP;
END $$;

-- A record may go with its owner's data, the digest in the entry stays. It never becomes another one.
CREATE FUNCTION doublei_never_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is never changed: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER never_changed BEFORE UPDATE OR TRUNCATE ON log_records
    FOR EACH STATEMENT EXECUTE FUNCTION doublei_never_changed();
ALTER TABLE log_records ENABLE ALWAYS TRIGGER never_changed;
