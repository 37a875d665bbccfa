//! Which accounts are to be pushed: due, claimed, reported. A row of `account_pushes` stands only as long as there is
//! something to push, and changes several times with each push, which is why it is not one of `accounts`.
//!
//! A claim or a report that a crash of Postgres takes back costs a push that is repeated and nothing else, so neither
//! waits for the disk. What a report says was acknowledged is then not known to be, and its account is due again.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;

use super::{Store, accounts::AccountServer, parse};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

/// An account that the push task has to look at.
#[derive(Clone, Debug)]
pub struct DueAccount {
    /// The account.
    pub account: PublicKey<Account>,
    /// Its generation.
    pub generation: i64,
    /// Its JWT.
    pub jwt: String,
    /// It is to be deleted from the servers once they have this JWT.
    pub tombstone: bool,
    /// Pushes since the last one that every server took.
    pub attempts: i32,
    /// A server lost its file, or has to load the account anew: another spelling of the token goes first.
    pub rewrite: bool,
    /// Until when it is ours.
    pub lease: DateTime<Utc>,
}

/// How a push ended for one account.
#[derive(Clone, Debug)]
pub struct PushReport {
    /// The account.
    pub account: PublicKey<Account>,
    /// The generation that was pushed.
    pub generation: i64,
    /// When to look at it again; none: every live server has it.
    pub again_at: Option<DateTime<Utc>>,
    /// The lease under which it was pushed.
    pub lease: DateTime<Utc>,
    /// The next time another spelling of the token goes first.
    pub rewrite: bool,
}

/// What a report did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// A server has something else than was known before.
    pub changed: bool,
    /// An account has a newer generation, and is due again.
    pub overtaken: bool,
    /// An account was deleted meanwhile: the push may have brought it back.
    pub gone: bool,
}

fn keys<'a>(accounts: impl IntoIterator<Item = &'a PublicKey<Account>>) -> Vec<String> {
    accounts.into_iter().map(ToString::to_string).collect()
}

/// By `ctid`, which stays as it is while the row is locked: a join by key would read all that are due for each claim.
const CLAIM: &str = "
WITH soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
UPDATE account_pushes p SET due_at = $3 + make_interval(secs => $2), attempts = p.attempts + 1
FROM soon, accounts a
WHERE p.ctid = ANY (ARRAY(
        SELECT ctid FROM account_pushes WHERE due_at <= $3 ORDER BY due_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED))
    AND a.account_key = p.account_key AND a.jwt IS NOT NULL
RETURNING a.account_key, a.generation, a.jwt, a.state, p.attempts, p.rewrite, p.due_at";

/// What servers have, and the end of the claims, in this order. Rows that say the same already are not written. (The second
/// comparison is for two who report at the same time.) Whoever mints an account ends its claim: where the claim stands, what
/// was pushed is its present generation. `OFFSET 0` and `ARRAY` have each row looked up in the index: as a join, the planner
/// reads a whole table for a few hundred.
const REPORT: &str = "
WITH soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
told AS (
    INSERT INTO account_servers AS s (account_key, server, server_id, stored, effective, error, at)
    SELECT n.*, $7 FROM soon, UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
        AS n(account_key, server, server_id, stored, effective, error)
    WHERE NOT EXISTS (
        SELECT FROM account_servers o WHERE o.account_key = n.account_key AND o.server = n.server
            AND (o.server_id, o.stored, o.effective, o.error)
                IS NOT DISTINCT FROM (n.server_id, n.stored, n.effective, n.error)
        OFFSET 0)
    ORDER BY 1, 2
    ON CONFLICT (account_key, server) DO UPDATE SET server_id = excluded.server_id,
        stored = CASE WHEN s.server_id = excluded.server_id THEN GREATEST(s.stored, excluded.stored) ELSE excluded.stored END,
        effective = excluded.effective, error = excluded.error, at = excluded.at
    WHERE (s.server_id, s.stored, s.effective, s.error)
        IS DISTINCT FROM (excluded.server_id, excluded.stored, excluded.effective, excluded.error)
    RETURNING 1),
r AS MATERIALIZED (
    SELECT * FROM UNNEST($8::text[], $9::timestamptz[], $10::timestamptz[], $11::boolean[])
        AS r(account_key, lease, again_at, rewrite)),
settled AS (
    DELETE FROM account_pushes p USING soon, r
    WHERE p.account_key = r.account_key AND p.due_at = r.lease AND r.again_at IS NULL RETURNING 1),
later AS (
    UPDATE account_pushes p SET due_at = r.again_at, rewrite = p.rewrite OR r.rewrite FROM soon, r
    WHERE p.account_key = ANY (ARRAY(SELECT account_key FROM r WHERE again_at IS NOT NULL))
        AND p.account_key = r.account_key AND p.due_at = r.lease RETURNING 1)
SELECT (SELECT count(*) FROM told), (SELECT count(*) FROM settled) + (SELECT count(*) FROM later)";

const OVERTAKEN: &str = "
WITH r AS (SELECT * FROM UNNEST($1::text[], $2::bigint[]) AS r(account_key, generation)),
overtaken AS MATERIALIZED (
    SELECT a.account_key, a.state = 'deleted' AS gone FROM r JOIN accounts a USING (account_key)
    WHERE a.generation > r.generation ORDER BY 1),
again AS (
    INSERT INTO account_pushes (account_key, due_at) SELECT account_key, $3 FROM overtaken WHERE NOT gone
    ON CONFLICT (account_key) DO UPDATE SET due_at = excluded.due_at)
SELECT COALESCE(bool_or(NOT gone), false), COALESCE(bool_or(gone), false) FROM overtaken";

/// How many accounts become due at a time: they are pushed while the next ones are marked.
const PORTION: i64 = 512;

/// The first of them are few, so that pushing begins at once: as many as are pushed at a time.
const FIRST: i64 = 128;

/// The pushes of a portion begin before it is on the disk: to push what need not be pushed does no harm.
const MARK: &str = "
WITH soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
portion AS (
    SELECT a.account_key FROM soon, accounts a
    WHERE a.account_key > $2 AND a.state <> 'deleted' AND a.jwt IS NOT NULL AND ($4::text IS NULL OR NOT EXISTS (
        SELECT FROM account_servers s WHERE s.account_key = a.account_key AND s.server = $4 AND s.server_id = $5
            AND s.stored >= a.generation))
    ORDER BY a.account_key LIMIT $3),
marked AS (
    INSERT INTO account_pushes (account_key, due_at) SELECT account_key, $1 FROM portion
    ON CONFLICT (account_key) DO UPDATE SET due_at = excluded.due_at)
SELECT count(*), max(account_key) FROM portion";

/// Writes nothing but the log, and so has everything on the disk that was committed before.
const DURABLE: &str = "SELECT pg_logical_emit_message(true, 'nats-authority', 'due')";

impl Store {
    /// Takes up to `limit` due accounts for `lease` seconds: other replicas leave them alone meanwhile.
    pub async fn claim_due_accounts(&self, limit: i64, lease: i64, now: DateTime<Utc>) -> Result<Vec<DueAccount>> {
        let rows = sqlx::query(CLAIM)
            .bind(limit)
            .bind(f64::from(i32::try_from(lease).unwrap_or(i32::MAX)))
            .bind(now)
            .fetch_all(self.pushes())
            .await?;
        let (mut due, mut gone) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let state: &str = row.try_get("state")?;
            if state == "deleted" {
                gone.push(row.try_get::<String, _>("account_key")?);
                continue;
            }
            due.push(DueAccount {
                account: parse(row.try_get("account_key")?)?,
                generation: row.try_get("generation")?,
                jwt: row.try_get("jwt")?,
                tombstone: state == "tombstone",
                attempts: row.try_get("attempts")?,
                rewrite: row.try_get("rewrite")?,
                lease: row.try_get("due_at")?,
            });
        }
        // It was marked at the very moment in which it was deleted.
        if !gone.is_empty() {
            sqlx::query("DELETE FROM account_pushes WHERE account_key = ANY($1)")
                .bind(gone)
                .execute(self.pushes())
                .await?;
        }
        Ok(due)
    }

    /// Those of `accounts` whose claim under `lease` still stands: nobody minted or claimed them since.
    /// They are claimed anew, for `seconds`; returns until when.
    pub async fn renew_claims(
        &self,
        accounts: &[PublicKey<Account>],
        lease: DateTime<Utc>,
        seconds: i64,
        now: DateTime<Utc>,
    ) -> Result<(DateTime<Utc>, HashSet<PublicKey<Account>>)> {
        let until = now + TimeDelta::seconds(seconds);
        let held: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
            "UPDATE account_pushes SET due_at = $3 WHERE account_key = ANY($1) AND due_at = $2
             RETURNING account_key, due_at",
        )
        .bind(keys(accounts))
        .bind(lease)
        .bind(until)
        .fetch_all(self.pushes())
        .await?;
        // As the database rounds it, so that it can be compared.
        let until = held.first().map_or(until, |(_, until)| *until);
        Ok((until, held.iter().map(|(key, _)| parse(key)).collect::<Result<_>>()?))
    }

    /// Whether an account is due, locked or not.
    pub async fn any_due(&self, now: DateTime<Utc>) -> Result<bool> {
        // By the index: of the table itself, rows would be read that are over.
        let due: Option<bool> = sqlx::query_scalar(
            "SELECT true FROM account_pushes p JOIN accounts a USING (account_key) WHERE p.due_at <= $1 AND a.jwt IS NOT NULL
             ORDER BY p.due_at LIMIT 1",
        )
        .bind(now)
        .fetch_optional(self.pushes())
        .await?;
        Ok(due.is_some())
    }

    /// Writes how a push ended: what each server has, and when to look again. An account that became due
    /// for another reason meanwhile stays due. One that got a newer generation becomes due again even
    /// if that was pushed already: ours may have arrived behind it, and servers keep whatever comes last.
    pub async fn report_push(
        &self,
        reports: &[PushReport],
        servers: &[AccountServer],
        now: DateTime<Utc>,
    ) -> Result<Reported> {
        let accounts = keys(reports.iter().map(|report| &report.account));
        let (told, held): (i64, i64) = sqlx::query_as(REPORT)
            .bind(servers.iter().map(|s| s.account.to_string()).collect::<Vec<_>>())
            .bind(servers.iter().map(|s| s.server.as_str()).collect::<Vec<_>>())
            .bind(servers.iter().map(|s| s.server_id.as_str()).collect::<Vec<_>>())
            .bind(servers.iter().map(|s| s.stored).collect::<Vec<_>>())
            .bind(servers.iter().map(|s| s.effective).collect::<Vec<_>>())
            .bind(servers.iter().map(|s| s.error.as_deref()).collect::<Vec<_>>())
            .bind(now)
            .bind(&accounts)
            .bind(reports.iter().map(|report| report.lease).collect::<Vec<_>>())
            .bind(reports.iter().map(|report| report.again_at).collect::<Vec<_>>())
            .bind(reports.iter().map(|report| report.rewrite).collect::<Vec<_>>())
            .fetch_one(self.pushes())
            .await?;
        let changed = told > 0;
        if usize::try_from(held) == Ok(reports.len()) {
            return Ok(Reported { changed, overtaken: false, gone: false });
        }
        let (overtaken, gone) = sqlx::query_as(OVERTAKEN)
            .bind(&accounts)
            .bind(reports.iter().map(|report| report.generation).collect::<Vec<_>>())
            .bind(now)
            .fetch_one(self.pushes())
            .await?;
        Ok(Reported { changed, overtaken, gone })
    }

    /// A server appeared or came back with a new id: every account is due that it has not acknowledged
    /// under this id. Returns how many. `marked` is called after each portion, which may be pushed at once.
    pub async fn due_for_server(
        &self,
        server: &str,
        server_id: &str,
        now: DateTime<Utc>,
        marked: impl Fn() + Send,
    ) -> Result<i64> {
        self.mark_due(Some((server, server_id)), now, marked).await
    }

    /// Makes every account due. Returns how many. `marked` is called after each portion, which may be pushed at once.
    pub async fn all_due(&self, now: DateTime<Utc>, marked: impl Fn() + Send) -> Result<i64> {
        self.mark_due(None, now, marked).await
    }

    /// All accounts that are not deleted, or those that a server has not acknowledged under its present id.
    async fn mark_due(
        &self,
        server: Option<(&str, &str)>,
        now: DateTime<Utc>,
        marked: impl Fn() + Send,
    ) -> Result<i64> {
        let (mut count, mut after, mut limit) = (0, String::new(), FIRST);
        loop {
            let (portion, last): (i64, Option<String>) = sqlx::query_as(MARK)
                .bind(now)
                .bind(&after)
                .bind(limit)
                .bind(server.map(|(name, _)| name))
                .bind(server.map(|(_, id)| id))
                .fetch_one(self.pushes())
                .await?;
            if portion > 0 {
                marked();
            }
            count += portion;
            match last {
                Some(last) if portion == limit => (after, limit) = (last, PORTION),
                _ => break,
            }
        }
        if count > 0 {
            sqlx::query(DURABLE).execute(self.pushes()).await?;
        }
        Ok(count)
    }
}
