-- Revocation in bulk: a cutoff that stands for many entries, when entries are pruned, and what is asked of
-- credentials by environment, role and end.

ALTER TABLE organizations ADD COLUMN revoked_until bigint;
COMMENT ON COLUMN organizations.revoked_until IS 'Issue time (Unix seconds) up to which every user JWT of the account is revoked: its entry *. Null: none.';

CREATE FUNCTION organizations_cutoff_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_until IS NOT NULL AND (NEW.revoked_until IS NULL OR NEW.revoked_until < OLD.revoked_until) THEN
        RAISE EXCEPTION 'organization %: what was revoked by the cutoff % would be let in again', OLD.slug, OLD.revoked_until
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER organizations_cutoff_only_forward BEFORE UPDATE OF revoked_until ON organizations
    FOR EACH ROW EXECUTE FUNCTION organizations_cutoff_only_forward();

ALTER TABLE accounts ADD COLUMN entries integer NOT NULL DEFAULT 0 CHECK (entries >= 0);
ALTER TABLE accounts ADD COLUMN prune_at timestamptz;
CREATE INDEX accounts_prune ON accounts (prune_at) WHERE prune_at IS NOT NULL;
CREATE INDEX accounts_entries ON accounts (entries) WHERE entries > 0;
COMMENT ON COLUMN accounts.entries IS 'Revoked users that the current JWT names one by one.';
COMMENT ON COLUMN accounts.prune_at IS 'When enough of the entries name credentials that have ended, so that a JWT without them is worth a push; null: there are none.';

-- What is valid, by environment and role, and by its end; the second one replaces the index on the end alone.
CREATE INDEX credentials_live ON credentials (environment_id, role, expires_at, issued_at) WHERE revoked_at IS NULL;
CREATE INDEX credentials_ends ON credentials (expires_at, id) WHERE revoked_at IS NULL;
DROP INDEX credentials_expiry;
-- What is revoked and not covered by a cutoff.
CREATE INDEX credentials_revoked_issued ON credentials (environment_id, issued_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE expiry_warnings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ends_at   timestamptz NOT NULL DEFAULT '-infinity',
    id        uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO expiry_warnings DEFAULT VALUES;
COMMENT ON TABLE expiry_warnings IS 'How far the warnings before the end of credentials have come, in the order of end and id: one row that only moves forward, so each is warned of once and issuing pays nothing for it.';
