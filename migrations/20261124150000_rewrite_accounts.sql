-- A server that lost the file of an account beneath itself has to be told something else before it
-- takes the same JWT again.

ALTER TABLE accounts ADD COLUMN rewrite boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN accounts.rewrite IS 'The next push is preceded by another spelling of the same token: servers do not write what they believe to have.';
