-- The operator's signing key is rotated in the same table as those of accounts, by rules of its own: every
-- server has to trust a key before it signs, and nothing may be left under a key before it goes.

ALTER TABLE accounts ADD COLUMN signed_by text, ADD COLUMN signed_since bigint;
COMMENT ON COLUMN accounts.signed_by IS 'The operator''s key that signed the current JWT; null: minted before this was kept.';
COMMENT ON COLUMN accounts.signed_since IS 'The first generation under that key; 1: the account was never signed by another one.';
UPDATE accounts a SET signed_by = g.signed_by, signed_since = 1 FROM account_generations g
    WHERE g.account_key = a.account_key AND g.generation = a.generation;

CREATE UNIQUE INDEX signing_keys_operator ON signing_keys (kind) WHERE state = 'active' AND kind = 'operator';
CREATE UNIQUE INDEX signing_keys_pending_operator ON signing_keys (kind) WHERE state = 'pending' AND kind = 'operator';

-- Whoever signs an account holds this lock together with all others who do; whoever moves the operator's key
-- holds it alone. So nothing is signed with a key that has just ceased to be the one.
CREATE FUNCTION operator_key(OUT public_key text, OUT sealed_seed bytea) RETURNS SETOF record LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(6052837899185946641);
    RETURN QUERY SELECT k.public_key, k.sealed_seed FROM signing_keys k WHERE k.kind = 'operator' AND k.state = 'active';
END $$;

CREATE FUNCTION account_generations_signed_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator_key() k WHERE k.public_key = NEW.signed_by) THEN
        RAISE EXCEPTION 'account %: % is not the operator''s present signing key', NEW.account_key, NEW.signed_by
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER account_generations_signed_now BEFORE INSERT ON account_generations
    FOR EACH ROW EXECUTE FUNCTION account_generations_signed_now();

-- Whether the operator JWT lists a signing key.
CREATE FUNCTION operator_jwt_lists(key text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT COALESCE((
        SELECT convert_from(decode(rpad(translate(payload, '-_', '+/'), 4 * ((length(payload) + 3) / 4), '='), 'base64'), 'UTF8')::jsonb
            -> 'nats' -> 'signing_keys' ? key
        FROM (SELECT split_part(jwt, '.', 2) AS payload FROM operators) AS o), false)
$$;

CREATE FUNCTION operators_keep_trust() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    missing text;
BEGIN
    IF (NEW.public_key, NEW.system_account) IS DISTINCT FROM (OLD.public_key, OLD.system_account) THEN
        RAISE EXCEPTION 'the operator and its system account stay' USING ERRCODE = 'check_violation';
    END IF;
    SELECT s.key INTO missing FROM (
        SELECT public_key AS key FROM signing_keys WHERE kind = 'operator' AND state = 'active'
        UNION SELECT signed_by FROM accounts WHERE state <> 'deleted' AND signed_by IS NOT NULL) AS s
    WHERE NOT operator_jwt_lists(s.key) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the operator JWT does not list %, which signs or has signed accounts', missing USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER operators_keep_trust AFTER UPDATE ON operators FOR EACH ROW EXECUTE FUNCTION operators_keep_trust();

CREATE FUNCTION operator_rotations_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.organization_id IS NOT NULL OR NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NOT (CASE OLD.state
        WHEN 'proposed' THEN NEW.state IN ('pending', 'cancelled')
        WHEN 'pending' THEN NEW.state = 'cancelled'
            OR (NEW.state = 'retiring' AND operator_jwt_lists(OLD.old_key) AND operator_jwt_lists(OLD.new_key))
        WHEN 'retiring' THEN NEW.state = 'removing' AND NOT operator_jwt_lists(OLD.old_key) AND NOT EXISTS (
            SELECT FROM accounts a WHERE a.state <> 'deleted' AND a.jwt IS NOT NULL AND a.signed_by IS DISTINCT FROM OLD.new_key)
        WHEN 'removing' THEN NEW.state = 'done'
        ELSE false END)
    THEN
        RAISE EXCEPTION 'rotation % of the operator''s key does not go from % to % now', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER operator_rotations_only_forward BEFORE UPDATE ON key_rotations
    FOR EACH ROW EXECUTE FUNCTION operator_rotations_only_forward();

CREATE FUNCTION operator_keys_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may boolean;
BEGIN
    IF NEW.kind <> 'operator' OR NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    -- Whoever comes later waits behind this: rather another try than nobody signing for long.
    PERFORM set_config('lock_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(6052837899185946641);
    may := CASE OLD.state || '>' || NEW.state
        WHEN 'pending>active' THEN EXISTS (SELECT FROM key_rotations r WHERE r.new_key = OLD.public_key AND r.state = 'retiring')
        WHEN 'pending>retired' THEN EXISTS (SELECT FROM key_rotations r WHERE r.new_key = OLD.public_key AND r.state = 'cancelled')
        WHEN 'active>retiring' THEN EXISTS (SELECT FROM key_rotations r WHERE r.old_key = OLD.public_key AND r.state = 'retiring')
        WHEN 'retiring>retired' THEN EXISTS (SELECT FROM key_rotations r WHERE r.old_key = OLD.public_key AND r.state = 'done')
        ELSE false END;
    IF NOT may THEN
        RAISE EXCEPTION 'the operator''s key % does not go from % to % now', OLD.public_key, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER operator_keys_only_forward BEFORE UPDATE ON signing_keys
    FOR EACH ROW EXECUTE FUNCTION operator_keys_only_forward();
