-- Tokens of callers beside the first one: bound to organizations, with an end, and a trace of their use.

ALTER TABLE api_tokens
    ADD COLUMN break_glass  boolean NOT NULL DEFAULT false,
    ADD COLUMN created_by   text,
    ADD COLUMN lineage      text[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_used_at timestamptz,
    ADD CONSTRAINT api_tokens_role CHECK
        (role IN ('sovereign-admin', 'security-officer', 'org-admin', 'org-developer', 'org-viewer'));

COMMENT ON COLUMN api_tokens.break_glass IS 'The token of the bundle, which configuration can switch off. It alone has no end.';
COMMENT ON COLUMN api_tokens.created_by IS 'Identity of who made it; null for the token of the bundle.';
COMMENT ON COLUMN api_tokens.lineage IS 'Identities of who made it, who made that one, and so on: whoever holds one of these may hold it.';
COMMENT ON COLUMN api_tokens.last_used_at IS 'Written at most once a minute: it may be a minute old.';

-- Until now there was no other way to get a token than the bundle.
UPDATE api_tokens SET expires_at = revoked_at WHERE expires_at IS NULL AND revoked_at IS NOT NULL;
UPDATE api_tokens SET break_glass = true WHERE expires_at IS NULL;

ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_end CHECK (break_glass OR expires_at IS NOT NULL);

-- The name is the caller's identity in the audit log and under idempotency keys. That of the bundle's token is
-- never free again: approvals make an exception for it.
CREATE UNIQUE INDEX api_tokens_name ON api_tokens (name) WHERE revoked_at IS NULL OR break_glass;
CREATE INDEX api_tokens_every_name ON api_tokens (name);

-- The organization, not its slug: who gets a freed slug must not get the old owner's callers with it.
CREATE TABLE api_token_organizations (
    token_id        uuid NOT NULL REFERENCES api_tokens ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES organizations,
    PRIMARY KEY (token_id, organization_id)
);
COMMENT ON TABLE api_token_organizations IS 'Where the bearer of a token has its role; none for roles of the whole deployment.';
CREATE INDEX api_token_organizations_organization ON api_token_organizations (organization_id);

ALTER TABLE policies_in_force ADD COLUMN access bytea;
COMMENT ON COLUMN policies_in_force.access IS 'SHA-256 of the access policy that was loaded last; null until then.';
