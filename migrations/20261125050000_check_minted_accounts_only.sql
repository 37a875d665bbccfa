-- Claims and reports of pushes rewrite rows of accounts many times for each time that one is minted. Only
-- what mints, or pretends to, has to be looked at.

DROP TRIGGER accounts_only_forward ON accounts;
CREATE TRIGGER accounts_only_forward BEFORE UPDATE OF jwt, generation, iat ON accounts
    FOR EACH ROW EXECUTE FUNCTION accounts_only_forward();
