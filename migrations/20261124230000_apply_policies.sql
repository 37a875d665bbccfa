-- Which plans and roles each account was composed with, so that a change of the files reaches exactly
-- the accounts that it touches, and a restart with the same files composes none.

ALTER TABLE accounts ADD COLUMN policies bytea CHECK (octet_length(policies) = 32);
COMMENT ON COLUMN accounts.policies IS 'Fingerprint of the plans and roles that it was last composed with; null: composed before this was kept, or no account of an organization.';

CREATE TABLE policies_in_force (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    since       timestamptz NOT NULL
);
COMMENT ON TABLE policies_in_force IS 'The fingerprint that was loaded last by any replica. Only replicas that have loaded it bring accounts up to it: two with different files do not undo each other''s work.';
