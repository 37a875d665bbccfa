-- What is valid is found without a look at what has ended, of which the ledger keeps all. An index on the end
-- alone cannot give the oldest that is valid; credentials of one role live equally long, though, and of those
-- that do the ones issued last are the valid ones.

CREATE INDEX credentials_by_life ON credentials (environment_id, role, (expires_at - issued_at), issued_at, id)
    INCLUDE (expires_at) WHERE revoked_at IS NULL;
DROP INDEX credentials_live;

-- What of an environment has come to the end of its grace time, beside what of all has.
CREATE INDEX credentials_ending_in ON credentials (environment_id, ends_at)
    WHERE superseded_at IS NOT NULL AND revoked_at IS NULL AND ends_at < expires_at;

-- The environments of an organization, deleted or not: so far only those that are not were found by it.
CREATE INDEX environments_of_organization ON environments (organization_id);

-- Goes from one to the next in the index: as many steps as there are answers, however many credentials there are.
CREATE FUNCTION credential_lives(org uuid) RETURNS TABLE (environment_id uuid, role text, life interval)
LANGUAGE sql STABLE ROWS 20 AS $$
    WITH RECURSIVE lives AS (
        SELECT e.id AS environment_id, f.role, f.life FROM environments e CROSS JOIN LATERAL (
            SELECT c.role, c.expires_at - c.issued_at AS life FROM credentials c
            WHERE c.environment_id = e.id AND c.revoked_at IS NULL
            ORDER BY c.role, c.expires_at - c.issued_at LIMIT 1) f
        WHERE e.organization_id = org
        UNION ALL
        SELECT l.environment_id, n.role, n.life FROM lives l CROSS JOIN LATERAL (
            SELECT c.role, c.expires_at - c.issued_at AS life FROM credentials c
            WHERE c.environment_id = l.environment_id AND c.revoked_at IS NULL
                AND (c.role, c.expires_at - c.issued_at) > (l.role, l.life)
            ORDER BY c.role, c.expires_at - c.issued_at LIMIT 1) n)
    SELECT environment_id, role, life FROM lives
$$;
COMMENT ON FUNCTION credential_lives IS 'How long credentials of an organization that are not revoked live, by environment and role: together with the issue time it says where in credentials_by_life the valid ones begin.';

-- When a credential was issued that ends at this time.
CREATE FUNCTION issued_for(end_at timestamptz, life interval) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT end_at - make_interval(secs => extract(epoch FROM life)::float8)
$$;
COMMENT ON FUNCTION issued_for IS 'In seconds: days of an interval would follow the time zone''s clock changes.';

-- The chain goes on from the last event that it has, also within a transaction of many.
ALTER TABLE audit_progress ADD COLUMN linked_seq bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN audit_progress.linked IS 'All events of transactions before this one are in the chain.';
COMMENT ON COLUMN audit_progress.linked_seq IS 'And of this transaction, those up to this number.';
