-- Signing keys are rotated by a state machine that cannot skip a step, whatever the code does.

ALTER TABLE signing_keys DROP CONSTRAINT signing_keys_state_check;
ALTER TABLE signing_keys ADD CONSTRAINT signing_keys_state_check CHECK (state IN ('pending', 'active', 'retiring', 'retired'));
COMMENT ON COLUMN signing_keys.state IS 'pending: in the account, signs nothing yet; active: signs; retiring: in the account, signs nothing any more; retired: out of the account.';
CREATE UNIQUE INDEX signing_keys_pending_scoped ON signing_keys (environment_id, role) WHERE state = 'pending' AND kind = 'scoped';
CREATE UNIQUE INDEX signing_keys_pending_account ON signing_keys (account_key) WHERE state = 'pending' AND kind = 'account';
CREATE INDEX credentials_issuer ON credentials (issuer_key, expires_at) WHERE revoked_at IS NULL;

CREATE TABLE key_rotations (
    id              uuid PRIMARY KEY,
    organization_id uuid REFERENCES organizations,
    old_key         text NOT NULL REFERENCES signing_keys,
    new_key         text UNIQUE REFERENCES signing_keys,
    state           text NOT NULL CHECK (state IN ('proposed', 'pending', 'retiring', 'removing', 'done', 'cancelled')),
    immediately     boolean NOT NULL,
    force           boolean NOT NULL,
    grace_seconds   bigint NOT NULL CHECK (grace_seconds >= 0),
    reason          text,
    requested_by    text NOT NULL,
    requested_at    timestamptz NOT NULL,
    approved_by     text CHECK (approved_by <> requested_by),
    approved_at     timestamptz,
    generation      bigint NOT NULL DEFAULT 0,
    activated_at    timestamptz,
    retire_after    timestamptz,
    removed_at      timestamptz,
    ended_at        timestamptz,
    ended_because   text,
    CHECK ((approved_by IS NULL) = (approved_at IS NULL)),
    CHECK (state IN ('proposed', 'cancelled') OR (approved_by IS NOT NULL AND new_key IS NOT NULL)),
    CHECK (state <> 'retiring' OR (activated_at IS NOT NULL AND retire_after IS NOT NULL)),
    CHECK (state NOT IN ('removing', 'done') OR (activated_at IS NOT NULL AND removed_at IS NOT NULL)),
    CHECK ((state IN ('done', 'cancelled')) = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX key_rotations_open ON key_rotations (old_key) WHERE state NOT IN ('done', 'cancelled');
CREATE INDEX key_rotations_moving ON key_rotations (id) WHERE state IN ('pending', 'retiring', 'removing');
CREATE INDEX key_rotations_of_organization ON key_rotations (organization_id, id);
COMMENT ON TABLE key_rotations IS 'Replacements of signing keys, one key each.';
COMMENT ON COLUMN key_rotations.organization_id IS 'Whose account; null: the operator''s key.';
COMMENT ON COLUMN key_rotations.state IS 'proposed: waits for a second person; pending: the new key is in the account; retiring: the new key signs, the old one is still in the account; removing: the old one is out of it, not yet proven gone on every server.';
COMMENT ON COLUMN key_rotations.immediately IS 'The old key leaves the account before the new one signs: it is in the wrong hands.';
COMMENT ON COLUMN key_rotations.force IS 'At the end of the grace time the old key leaves whoever still uses it; else it waits for the last credential.';
COMMENT ON COLUMN key_rotations.requested_by IS 'Subject, with the issuer behind an @ where there is one.';
COMMENT ON COLUMN key_rotations.approved_by IS 'The same for the security officer who approved; never who asked.';
COMMENT ON COLUMN key_rotations.generation IS 'The generation of the account that carries the last step; the next one waits until the servers have it.';
COMMENT ON COLUMN key_rotations.retire_after IS 'The end of the grace time.';
COMMENT ON COLUMN key_rotations.ended_because IS 'Of a cancelled one: by whom, or what made it pointless.';

CREATE FUNCTION key_rotations_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'proposed' THEN
            RAISE EXCEPTION 'a key rotation begins proposed' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
        WHEN 'proposed' THEN NEW.state IN ('pending', 'cancelled')
        WHEN 'pending' THEN NEW.state IN ('retiring', 'cancelled') OR (NEW.state = 'removing' AND NEW.immediately)
        WHEN 'retiring' THEN NEW.state IN ('removing', 'cancelled')
        WHEN 'removing' THEN NEW.state IN ('done', 'cancelled')
        ELSE false END)
    THEN
        RAISE EXCEPTION 'key rotation % does not go from % to %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF (NEW.organization_id, NEW.old_key, NEW.requested_by) IS DISTINCT FROM (OLD.organization_id, OLD.old_key, OLD.requested_by)
        OR (OLD.new_key IS NOT NULL AND NEW.new_key IS DISTINCT FROM OLD.new_key)
        OR (OLD.approved_by IS NOT NULL AND NEW.approved_by IS DISTINCT FROM OLD.approved_by)
    THEN
        RAISE EXCEPTION 'key rotation %: keys and people stay', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_rotations_only_forward BEFORE INSERT OR UPDATE ON key_rotations
    FOR EACH ROW EXECUTE FUNCTION key_rotations_only_forward();

-- A key of an account moves only with its rotation, or leaves with its environment.
CREATE FUNCTION signing_keys_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    gone boolean;
    may boolean;
BEGIN
    IF (NEW.public_key, NEW.kind, NEW.account_key, NEW.environment_id, NEW.role)
        IS DISTINCT FROM (OLD.public_key, OLD.kind, OLD.account_key, OLD.environment_id, OLD.role) THEN
        RAISE EXCEPTION 'signing key %: what it is for stays', OLD.public_key USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = OLD.state OR NEW.kind = 'operator' THEN
        RETURN NEW;
    END IF;
    gone := EXISTS (SELECT FROM environments e WHERE e.id = OLD.environment_id AND e.state IN ('deleting', 'deleted'));
    may := CASE OLD.state || '>' || NEW.state
        WHEN 'pending>active' THEN EXISTS (
            SELECT FROM key_rotations r WHERE r.new_key = OLD.public_key AND r.state IN ('retiring', 'removing'))
        WHEN 'pending>retired' THEN true
        WHEN 'active>retiring' THEN EXISTS (
            SELECT FROM key_rotations r WHERE r.old_key = OLD.public_key AND r.state = 'retiring')
        -- Without a rotation: a revocation of all that it signed replaces it.
        WHEN 'active>retired' THEN gone OR NOT EXISTS (
            SELECT FROM key_rotations r WHERE r.old_key = OLD.public_key AND r.state NOT IN ('done', 'cancelled')
                AND NOT (r.state = 'pending' AND r.immediately))
        WHEN 'retiring>retired' THEN gone OR EXISTS (
            SELECT FROM key_rotations r WHERE r.old_key = OLD.public_key AND r.state = 'removing')
        ELSE false END;
    IF NOT may THEN
        RAISE EXCEPTION 'signing key % does not go from % to % now', OLD.public_key, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER signing_keys_only_forward BEFORE UPDATE ON signing_keys
    FOR EACH ROW EXECUTE FUNCTION signing_keys_only_forward();
