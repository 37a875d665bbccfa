-- Renewal: a new JWT for the same user key. Each is a row of its own that replaces the one before.

ALTER TABLE credentials ADD COLUMN first_issued_at timestamptz;
ALTER TABLE credentials ADD CONSTRAINT credentials_first_issued CHECK (first_issued_at <= issued_at);
COMMENT ON COLUMN credentials.first_issued_at IS 'Of a renewed credential: when the first JWT for this user key was issued, so how old the key is. Null: it is the first.';

ALTER TABLE credentials ADD COLUMN renewed boolean NOT NULL DEFAULT false;
ALTER TABLE credentials ADD CONSTRAINT credentials_renewed_ends CHECK (NOT renewed OR (superseded_at IS NOT NULL AND ends_at = expires_at));
COMMENT ON COLUMN credentials.renewed IS 'Superseded by a JWT for the same key. It ends with itself, never by a revocation: that would hit its successor.';
COMMENT ON COLUMN credentials.superseded_at IS 'When a newer credential replaced it, by a rotation or a renewal.';

-- A key has one credential that is not revoked, and what was renewed before it.
DROP INDEX credentials_user_key;
CREATE UNIQUE INDEX credentials_user_key ON credentials (user_key) WHERE revoked_at IS NULL AND NOT renewed;
CREATE INDEX credentials_past_user_key ON credentials (user_key) WHERE revoked_at IS NOT NULL OR renewed;

-- Servers revoke by user key: whoever revokes one JWT of a key revokes all of them. Were only one of them
-- marked, its entry would leave the account at its end, and the younger ones would be accepted again.
CREATE FUNCTION revoke_whole_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credentials SET revoked_at = GREATEST(NEW.revoked_at, issued_at), revocation_reason = NEW.revocation_reason
    WHERE user_key = NEW.user_key AND revoked_at IS NULL AND NOT renewed AND expires_at > NEW.revoked_at;
    UPDATE credentials SET revoked_at = GREATEST(NEW.revoked_at, issued_at), revocation_reason = NEW.revocation_reason
    WHERE user_key = NEW.user_key AND revoked_at IS NULL AND renewed AND expires_at > NEW.revoked_at;
    RETURN NULL;
END $$;
CREATE TRIGGER credentials_revoke_whole_key AFTER UPDATE OF revoked_at ON credentials
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION revoke_whole_key();
