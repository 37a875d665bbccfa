-- Rotation: a superseded credential ends after its grace time.

ALTER TABLE credentials ADD COLUMN ends_at timestamptz;
ALTER TABLE credentials ADD CONSTRAINT credentials_superseded_ends CHECK ((superseded_at IS NULL) = (ends_at IS NULL));
COMMENT ON COLUMN credentials.superseded_at IS 'When a newer credential replaced it.';
COMMENT ON COLUMN credentials.ends_at IS 'When a superseded credential is to be revoked; its own end when that comes first, and then nothing is to do.';
CREATE INDEX credentials_ending ON credentials (ends_at)
    WHERE superseded_at IS NOT NULL AND revoked_at IS NULL AND ends_at < expires_at;

-- Revoking names the user's key, so a key may not get another credential while a superseded one still
-- waits for its revocation: that would end both.
DROP INDEX credentials_user_key;
CREATE UNIQUE INDEX credentials_user_key ON credentials (user_key) WHERE revoked_at IS NULL;
