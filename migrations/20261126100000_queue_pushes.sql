-- That an account is due changes three times with each push, and the rows of accounts are wide: each time the JWT was
-- copied, constraints were checked and three indexes written. What changes so fast gets a narrow table of its own,
-- with a row only as long as there is something to push.

CREATE TABLE account_pushes (
    account_key text PRIMARY KEY,
    due_at      timestamptz NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    rewrite     boolean NOT NULL DEFAULT false
);
CREATE INDEX account_pushes_due ON account_pushes (due_at);
COMMENT ON TABLE account_pushes IS 'The accounts that the push task has to look at; no row: every server has what it should. Without a foreign key, which would lock the account each time: accounts stay, and rows of what is gone are ignored and removed.';
COMMENT ON COLUMN account_pushes.due_at IS 'When to look at it. Whoever claims it moves this to the end of the claim, which stands as long as this does not change.';
COMMENT ON COLUMN account_pushes.attempts IS 'Pushes since the last one that every server took; spaces the next one.';
COMMENT ON COLUMN account_pushes.rewrite IS 'A server lost the file of the account: it gets another spelling of the token first.';

INSERT INTO account_pushes (account_key, due_at, attempts, rewrite)
SELECT account_key, due_at, attempts, rewrite FROM accounts
WHERE due_at IS NOT NULL AND jwt IS NOT NULL AND state <> 'deleted';

CREATE INDEX accounts_with_clients_to_look_at ON accounts (account_key) WHERE look_at_clients;

-- The release before this one, where it still runs, marks accounts where they were marked until now.
CREATE FUNCTION accounts_due_as_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_pushes AS p (account_key, due_at, rewrite) VALUES (NEW.account_key, NEW.due_at, NEW.rewrite)
    ON CONFLICT (account_key) DO UPDATE SET due_at = excluded.due_at, rewrite = p.rewrite OR excluded.rewrite;
    RETURN NULL;
END $$;
CREATE TRIGGER accounts_due_as_before AFTER UPDATE OF due_at ON accounts
    FOR EACH ROW WHEN (NEW.due_at IS NOT NULL AND NEW.due_at IS DISTINCT FROM OLD.due_at AND NEW.jwt IS NOT NULL)
    EXECUTE FUNCTION accounts_due_as_before();
COMMENT ON COLUMN accounts.due_at IS 'No longer read, see account_pushes; to be dropped with the trigger accounts_due_as_before, attempts and rewrite.';
COMMENT ON COLUMN accounts.attempts IS 'No longer read, see account_pushes.';
COMMENT ON COLUMN accounts.rewrite IS 'No longer read, see account_pushes.';
