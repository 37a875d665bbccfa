-- Further streams of environments, and what of a name the authority made itself.

ALTER TABLE consumers ADD COLUMN made boolean NOT NULL DEFAULT false;
UPDATE consumers SET made = true WHERE state IN ('ready', 'deleting');
COMMENT ON COLUMN consumers.made IS 'It was made. What was not, and is there under its name, may be somebody else''s and is not removed.';

CREATE TABLE streams (
    id             uuid PRIMARY KEY,
    environment_id uuid NOT NULL REFERENCES environments,
    name           text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$' AND name <> 'events'),
    config         json NOT NULL,
    state          text NOT NULL CHECK (state IN ('pending', 'ready', 'deleting', 'deleted')),
    made           boolean NOT NULL DEFAULT false,
    due_at         timestamptz,
    attempts       integer NOT NULL DEFAULT 0,
    error          text,
    created_at     timestamptz NOT NULL
);
CREATE UNIQUE INDEX streams_one ON streams (environment_id, name) WHERE state <> 'deleted';
CREATE INDEX streams_due ON streams (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE streams IS 'Further streams of environments, ws-{org}-{env_type}-{name} in JetStream: each copies from the event stream what its filters say.';
COMMENT ON COLUMN streams.config IS 'What was asked for, with every default filled in. It never changes: another configuration is another stream.';
COMMENT ON COLUMN streams.state IS 'pending: still to be made, once the environment is ready.';
COMMENT ON COLUMN streams.made IS 'It was made. What was not, and is there under its name, may be somebody else''s and is not removed.';
COMMENT ON COLUMN streams.due_at IS 'When the provision task has to look at it; null when nothing is to do.';
COMMENT ON COLUMN streams.error IS 'Why the last attempt failed, in the server''s words.';
