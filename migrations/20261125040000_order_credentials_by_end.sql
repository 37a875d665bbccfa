-- What ends next, in whichever state it is: the list across organizations, and the warnings before the end.
CREATE INDEX credentials_by_end ON credentials (expires_at, id);
DROP INDEX credentials_ends;
