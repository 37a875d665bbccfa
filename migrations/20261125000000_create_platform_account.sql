-- The platform account: an account of the authority's own, beside the system account.

ALTER TABLE accounts DROP CONSTRAINT accounts_kind_check;
ALTER TABLE accounts ADD CONSTRAINT accounts_kind_check CHECK (kind IN ('system', 'platform', 'organization'));
CREATE UNIQUE INDEX accounts_platform ON accounts (kind) WHERE kind = 'platform';
COMMENT ON COLUMN accounts.kind IS 'system: the servers'' own; platform: the authority''s own, at most one, which exports what every organization''s account imports; organization: one for each organization.';
