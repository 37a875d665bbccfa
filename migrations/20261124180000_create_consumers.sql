-- Durable pull consumers on the event streams of environments.

CREATE TABLE consumers (
    id             uuid PRIMARY KEY,
    environment_id uuid NOT NULL REFERENCES environments,
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    config         json NOT NULL,
    state          text NOT NULL CHECK (state IN ('pending', 'ready', 'deleting', 'deleted')),
    due_at         timestamptz,
    attempts       integer NOT NULL DEFAULT 0,
    error          text,
    created_at     timestamptz NOT NULL
);
CREATE UNIQUE INDEX consumers_one ON consumers (environment_id, name) WHERE state <> 'deleted';
CREATE INDEX consumers_due ON consumers (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE consumers IS 'Durable pull consumers that the authority makes on the event streams of environments, for roles that create nothing themselves.';
COMMENT ON COLUMN consumers.config IS 'What was asked for, with every default filled in. It never changes: another configuration is another consumer.';
COMMENT ON COLUMN consumers.state IS 'pending: still to be made, once the environment is ready.';
COMMENT ON COLUMN consumers.due_at IS 'When the provision task has to look at it; null when nothing is to do.';
COMMENT ON COLUMN consumers.error IS 'Why the last attempt failed, in the server''s words.';
