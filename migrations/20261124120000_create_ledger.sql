-- The ledger: who exists, which keys sign for whom, what was minted and issued, what each server has.
-- Public keys are nkeys in their text form; times that NATS claims carry are Unix seconds (bigint),
-- all others timestamptz.

CREATE TABLE operators (
    singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    public_key     text NOT NULL CHECK (public_key ~ '^O[A-Z2-7]{55}$'),
    name           text NOT NULL,
    jwt            text NOT NULL,
    system_account text NOT NULL CHECK (system_account ~ '^A[A-Z2-7]{55}$'),
    adopted_at     timestamptz NOT NULL
);
COMMENT ON TABLE operators IS 'The one operator of this deployment. Its identity seed is never here.';
COMMENT ON COLUMN operators.jwt IS 'The operator JWT as it stands in every server''s configuration.';

CREATE TABLE audit_events (
    id         uuid PRIMARY KEY,
    seq        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    at         timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    org        text,
    target     text NOT NULL,
    request_id text,
    detail     json NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_events_org ON audit_events (org, seq) WHERE org IS NOT NULL;
COMMENT ON TABLE audit_events IS 'Every change, in the transaction that made it. Append-only: a trigger refuses anything else.';
COMMENT ON COLUMN audit_events.actor IS 'Who asked: the caller''s subject, or task:<name> for our own work.';
COMMENT ON COLUMN audit_events.target IS 'What was changed, such as a slug, a credential id or a public key.';
COMMENT ON COLUMN audit_events.detail IS 'Public parts of the change. Never a secret. Kept as text: binary JSON writes values without anything between them, and two public keys side by side look like a private seed to whoever searches the files.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE accounts (
    account_key  text PRIMARY KEY CHECK (account_key ~ '^A[A-Z2-7]{55}$'),
    kind         text NOT NULL CHECK (kind IN ('system', 'organization')),
    state        text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'tombstone', 'deleted')),
    generation   bigint NOT NULL DEFAULT 0,
    iat          bigint NOT NULL DEFAULT 0,
    content_hash bytea CHECK (octet_length(content_hash) = 32),
    jwt          text,
    jwt_sha256   bytea CHECK (octet_length(jwt_sha256) = 32),
    due_at       timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL,
    CHECK ((generation = 0) = (jwt IS NULL)),
    CHECK ((jwt IS NULL) = (jwt_sha256 IS NULL) AND (jwt IS NULL) = (content_hash IS NULL))
);
CREATE INDEX accounts_due ON accounts (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE accounts IS 'The account JWTs that every server must have: the desired state of the cluster.';
COMMENT ON COLUMN accounts.state IS 'tombstone: pushed with no connection allowed and all users revoked, then deleted from the servers; the row stays so that a server that brings the account back is told again.';
COMMENT ON COLUMN accounts.generation IS 'Counts the minted JWTs of this account; 0: none yet.';
COMMENT ON COLUMN accounts.iat IS 'Issue time of the current JWT. Resolvers keep the newer of two by it, so it strictly increases.';
COMMENT ON COLUMN accounts.content_hash IS 'SHA-256 of the composed claims without issue time and id: a new generation is minted only when it changes.';
COMMENT ON COLUMN accounts.due_at IS 'When the push task has to look at it; null when every server has what it should.';
COMMENT ON COLUMN accounts.attempts IS 'Pushes since the last one that every server took; spaces the next one.';

CREATE FUNCTION accounts_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.jwt IS DISTINCT FROM OLD.jwt AND NOT (NEW.generation = OLD.generation + 1 AND NEW.iat > OLD.iat) THEN
        RAISE EXCEPTION 'account % goes from generation % (iat %) to % (iat %): both must increase',
            OLD.account_key, OLD.generation, OLD.iat, NEW.generation, NEW.iat USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.jwt IS NOT DISTINCT FROM OLD.jwt AND (NEW.generation, NEW.iat) IS DISTINCT FROM (OLD.generation, OLD.iat) THEN
        RAISE EXCEPTION 'account %: generation and iat change only with the JWT', OLD.account_key USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER accounts_only_forward BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION accounts_only_forward();

CREATE TABLE account_generations (
    account_key text NOT NULL REFERENCES accounts,
    generation  bigint NOT NULL CHECK (generation > 0),
    iat         bigint NOT NULL,
    jwt         text NOT NULL,
    jwt_sha256  bytea NOT NULL CHECK (octet_length(jwt_sha256) = 32),
    signed_by   text NOT NULL,
    audit_event uuid NOT NULL REFERENCES audit_events,
    minted_at   timestamptz NOT NULL,
    PRIMARY KEY (account_key, generation),
    UNIQUE (account_key, iat)
);
COMMENT ON TABLE account_generations IS 'Every account JWT that was ever minted.';
COMMENT ON COLUMN account_generations.signed_by IS 'The operator signing key.';

CREATE TABLE organizations (
    id           uuid PRIMARY KEY,
    slug         text NOT NULL CHECK (slug ~ '^[a-z][a-z0-9-]{2,31}$'),
    display_name text NOT NULL,
    plan         text NOT NULL,
    limits       jsonb NOT NULL DEFAULT '{}',
    state        text NOT NULL CHECK (state IN ('active', 'suspended', 'deleting', 'deleted')),
    purge        boolean NOT NULL DEFAULT false,
    account_key  text NOT NULL UNIQUE REFERENCES accounts,
    promised_memory bigint NOT NULL CHECK (promised_memory >= 0),
    promised_disk   bigint NOT NULL CHECK (promised_disk >= 0),
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE UNIQUE INDEX organizations_active_slug ON organizations (slug) WHERE state <> 'deleted';
CREATE INDEX organizations_slug ON organizations (slug, account_key);
COMMENT ON TABLE organizations IS 'The unit of tenancy: exactly one account each.';
COMMENT ON COLUMN organizations.slug IS 'Unique among those that are not deleted; used again it gets a new account.';
COMMENT ON COLUMN organizations.limits IS 'Overrides of single plan limits.';
COMMENT ON COLUMN organizations.purge IS 'Deleting also frees the JetStream data.';
COMMENT ON COLUMN organizations.promised_disk IS 'Bytes of cluster disk that the plan reserves, all replicas.';

CREATE TABLE promises (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    memory    bigint NOT NULL DEFAULT 0,
    disk      bigint NOT NULL DEFAULT 0
);
INSERT INTO promises DEFAULT VALUES;
COMMENT ON TABLE promises IS 'The sum of what all plans promise: one row, so that admission is one locked comparison however many organizations there are.';

CREATE TABLE environments (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    env_type        text NOT NULL CHECK (env_type ~ '^[a-z][a-z0-9]{1,15}$'),
    state           text NOT NULL CHECK (state IN ('pending', 'ready', 'deleting', 'deleted')),
    due_at          timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    error           text,
    created_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX environments_one ON environments (organization_id, env_type) WHERE state <> 'deleted';
CREATE INDEX environments_due ON environments (due_at) WHERE due_at IS NOT NULL;
COMMENT ON TABLE environments IS 'Environments of organizations, each with an event stream and a KV bucket in the account.';
COMMENT ON COLUMN environments.state IS 'pending: stream and bucket are still to be made.';
COMMENT ON COLUMN environments.due_at IS 'When the provision task has to look at it; null when nothing is to do.';
COMMENT ON COLUMN environments.error IS 'Why the last attempt failed, in the server''s words.';

CREATE TABLE signing_keys (
    public_key     text PRIMARY KEY CHECK (public_key ~ '^[OA][A-Z2-7]{55}$'),
    kind           text NOT NULL CHECK (kind IN ('operator', 'account', 'scoped')),
    account_key    text REFERENCES accounts,
    environment_id uuid REFERENCES environments,
    role           text,
    state          text NOT NULL CHECK (state IN ('active', 'retired')),
    sealed_seed    bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    CHECK ((kind = 'operator') = (account_key IS NULL)),
    CHECK ((kind = 'scoped') = (environment_id IS NOT NULL) AND (kind = 'scoped') = (role IS NOT NULL))
);
CREATE UNIQUE INDEX signing_keys_scoped ON signing_keys (environment_id, role) WHERE state = 'active' AND kind = 'scoped';
CREATE UNIQUE INDEX signing_keys_account ON signing_keys (account_key) WHERE state = 'active' AND kind = 'account';
CREATE INDEX signing_keys_of_account ON signing_keys (account_key);
COMMENT ON TABLE signing_keys IS 'Private keys, sealed. Account identity seeds are not kept: only signing keys exist after onboarding.';
COMMENT ON COLUMN signing_keys.kind IS 'operator: signs accounts; scoped: signs users of one role in one environment; account: signs users that carry their own permissions.';
COMMENT ON COLUMN signing_keys.sealed_seed IS 'Sealing key id (8), nonce (24), XChaCha20-Poly1305 ciphertext; table, row and column are associated data.';

CREATE TABLE credentials (
    id                uuid PRIMARY KEY,
    environment_id    uuid NOT NULL REFERENCES environments,
    name              text NOT NULL,
    role              text NOT NULL,
    user_key          text NOT NULL CHECK (user_key ~ '^U[A-Z2-7]{55}$'),
    issuer_key        text NOT NULL REFERENCES signing_keys,
    jwt_sha256        bytea NOT NULL CHECK (octet_length(jwt_sha256) = 32),
    issued_at         timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL CHECK (expires_at > issued_at),
    issued_by         text NOT NULL,
    options           jsonb NOT NULL DEFAULT '{}',
    replaces          uuid REFERENCES credentials,
    superseded_at     timestamptz,
    revoked_at        timestamptz,
    revocation_reason text,
    audit_event       uuid NOT NULL REFERENCES audit_events
);
CREATE INDEX credentials_of_environment ON credentials (environment_id, id);
CREATE INDEX credentials_expiry ON credentials (expires_at);
CREATE INDEX credentials_revoked ON credentials (environment_id, expires_at) WHERE revoked_at IS NOT NULL;
CREATE UNIQUE INDEX credentials_user_key ON credentials (user_key) WHERE revoked_at IS NULL AND superseded_at IS NULL;
COMMENT ON TABLE credentials IS 'Every user JWT that was ever issued. Nothing secret: neither the private key nor the creds file is kept.';
COMMENT ON COLUMN credentials.jwt_sha256 IS 'SHA-256 of the JWT''s text.';
COMMENT ON COLUMN credentials.options IS 'Connection types, networks and tags, where the caller asked for them.';

CREATE TABLE servers (
    name        text PRIMARY KEY,
    server_id   text NOT NULL,
    cluster     text,
    version     text NOT NULL,
    max_memory  bigint NOT NULL DEFAULT 0,
    max_disk    bigint NOT NULL DEFAULT 0,
    max_payload bigint NOT NULL,
    live        boolean NOT NULL,
    seen_at     timestamptz NOT NULL
);
COMMENT ON TABLE servers IS 'Servers by name: the id changes with every restart.';
COMMENT ON COLUMN servers.max_disk IS 'JetStream file storage in bytes; 0 without JetStream.';

CREATE TABLE account_servers (
    account_key text NOT NULL REFERENCES accounts ON DELETE CASCADE,
    server      text NOT NULL,
    server_id   text NOT NULL,
    stored      bigint NOT NULL DEFAULT 0,
    effective   bigint,
    error       text,
    at          timestamptz NOT NULL,
    PRIMARY KEY (account_key, server)
);
COMMENT ON TABLE account_servers IS 'What each server has of each account, as last seen.';
COMMENT ON COLUMN account_servers.stored IS 'The newest generation that the server has acknowledged.';
COMMENT ON COLUMN account_servers.effective IS 'The generation that the server runs; null while it has not loaded the account.';
COMMENT ON COLUMN account_servers.error IS 'The server''s words when it refused.';

CREATE TABLE api_tokens (
    id           uuid PRIMARY KEY,
    name         text NOT NULL,
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    role         text NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz
);
COMMENT ON TABLE api_tokens IS 'Callers'' tokens, as hashes only.';
