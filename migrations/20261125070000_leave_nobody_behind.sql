-- Credentials under an account's plain key outlived their environment: they were accepted, also by the next
-- environment of the same name. Those that are left are revoked, and their accounts composed anew.

UPDATE credentials c SET revoked_at = GREATEST(now(), c.issued_at), revocation_reason = 'environment deleted'
FROM environments e
WHERE e.id = c.environment_id AND e.state IN ('deleting', 'deleted') AND c.revoked_at IS NULL AND c.expires_at > now();

-- An account of a role that is gone is composed with the files of that time already, so all of them are looked at once.
UPDATE accounts a SET policies = NULL FROM organizations o
WHERE o.account_key = a.account_key AND o.state IN ('active', 'suspended');
