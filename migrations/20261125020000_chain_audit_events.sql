-- The audit log as a chain: each event is bound to all before it, so that what a superuser changes,
-- removes or reorders shows.

ALTER TABLE audit_events ADD COLUMN issuer text;
ALTER TABLE audit_events ADD COLUMN address text;
ALTER TABLE audit_events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
COMMENT ON COLUMN audit_events.issuer IS 'Who vouches for the actor: the issuer of its token; null for our own tokens and tasks.';
COMMENT ON COLUMN audit_events.address IS 'Where the request came from.';
COMMENT ON COLUMN audit_events.xid IS 'The transaction that wrote it: what is older than every open transaction is complete, whatever order its numbers came in.';
CREATE INDEX audit_events_xid ON audit_events (xid, seq);

CREATE TABLE audit_chain (
    position  bigint PRIMARY KEY CHECK (position > 0),
    event     uuid NOT NULL UNIQUE REFERENCES audit_events,
    hash      bytea NOT NULL CHECK (octet_length(hash) = 32),
    linked_at timestamptz NOT NULL
);
COMMENT ON TABLE audit_chain IS 'The order of the audit log. Written by a task right after the events: a request does not wait for it.';
COMMENT ON COLUMN audit_chain.position IS '1, 2, 3, … without gaps.';
COMMENT ON COLUMN audit_chain.hash IS 'SHA-256 over the hash before, the position and everything that the event says.';
CREATE TRIGGER audit_chain_append_only BEFORE UPDATE OR DELETE ON audit_chain
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_chain_no_truncate BEFORE TRUNCATE ON audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE audit_progress (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    linked          xid8 NOT NULL DEFAULT '0',
    published       bigint NOT NULL DEFAULT 0,
    publisher       uuid,
    publisher_until timestamptz,
    CHECK ((publisher IS NULL) = (publisher_until IS NULL))
);
INSERT INTO audit_progress DEFAULT VALUES;
COMMENT ON TABLE audit_progress IS 'How far the audit log is linked and published: one row, whose lock makes one replica at a time link.';
COMMENT ON COLUMN audit_progress.linked IS 'All events of transactions before this one are in the chain.';
COMMENT ON COLUMN audit_progress.published IS 'The last position of the chain that the stream has.';
COMMENT ON COLUMN audit_progress.publisher IS 'The replica that publishes, until publisher_until: a lease, since no transaction may wait for NATS.';
