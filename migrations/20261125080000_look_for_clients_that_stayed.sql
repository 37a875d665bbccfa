-- After an account has changed, somebody looks whether a client stayed that servers should have closed.

ALTER TABLE accounts ADD COLUMN look_at_clients boolean NOT NULL DEFAULT false;
CREATE INDEX accounts_look_at_clients ON accounts (account_key) WHERE look_at_clients AND due_at IS NULL;
COMMENT ON COLUMN accounts.look_at_clients IS 'The account was minted again: once every server runs it, connections of users that it refuses are looked for and closed.';
