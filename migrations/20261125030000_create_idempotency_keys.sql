-- Requests that may be repeated: what was done under a key is done once.

CREATE TABLE idempotency_keys (
    id           uuid PRIMARY KEY,
    caller       text NOT NULL,
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint  bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    attempt      integer NOT NULL DEFAULT 1,
    leased_until timestamptz NOT NULL,
    carried_out  boolean NOT NULL DEFAULT false,
    answer       json,
    created_at   timestamptz NOT NULL,
    UNIQUE (caller, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'What callers may repeat for a day: the same key is the same request, carried out once.';
COMMENT ON COLUMN idempotency_keys.caller IS 'The caller with who vouches for it: keys of two callers have nothing to do with each other.';
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of method, path, query and body.';
COMMENT ON COLUMN idempotency_keys.attempt IS 'Counts who carries it out; a change commits only for the present one.';
COMMENT ON COLUMN idempotency_keys.leased_until IS 'Until then somebody is at it.';
COMMENT ON COLUMN idempotency_keys.carried_out IS 'Set in the transaction of the change.';
COMMENT ON COLUMN idempotency_keys.answer IS 'Status, headers and body of the answer; a secret is never in it.';

ALTER TABLE audit_events ADD COLUMN operation uuid;
CREATE INDEX audit_events_operation ON audit_events (operation) WHERE operation IS NOT NULL;
COMMENT ON COLUMN audit_events.operation IS 'The idempotency key under which it was done.';
