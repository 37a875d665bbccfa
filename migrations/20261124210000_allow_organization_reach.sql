-- Organizations may forbid credentials of roles that reach all of their environments.

ALTER TABLE organizations ADD COLUMN allow_organization_reach boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN organizations.allow_organization_reach IS 'Credentials of roles that can create consumers, and so reach the whole organization, may be issued. Those that were issued before stay.';
COMMENT ON COLUMN credentials.options IS 'What the caller asked for beyond the role: connection types, networks, times of day, bearer, tags, and with the role custom its permissions.';
