-- Which accounts are still to follow plans and roles is asked every 30 seconds, and nearly always the answer is none.
CREATE INDEX accounts_policies ON accounts (policies) WHERE kind = 'organization' AND state = 'live';
