//! What is revoked: the selection of credentials, the cutoff of an organization, the entries of its account.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Store, parse};
use crate::{
    error::Result,
    nkey::{Account, PublicKey, User},
};

/// A revoked credential that a server could still accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its user.
    pub user: PublicKey<User>,
    /// The signing key that issued it.
    pub issuer: PublicKey<Account>,
    /// When it was issued, Unix seconds.
    pub issued_at: i64,
    /// When it was revoked, Unix seconds.
    pub revoked_at: i64,
    /// Its end.
    pub expires_at: DateTime<Utc>,
}

/// Which credentials of an organization to revoke: all of these hold. Only such as are not revoked, and
/// that a server may still accept, are meant.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The organization.
    pub org: Uuid,
    /// Of this environment.
    pub environment: Option<Uuid>,
    /// Of this role.
    pub role: Option<String>,
    /// Issued until this time, Unix seconds.
    pub issued_until: Option<i64>,
    /// Issued by this signing key.
    pub signing_key: Option<PublicKey<Account>>,
    /// Ending after this time.
    pub ends_after: DateTime<Utc>,
}

/// Of a credential `c` of the organization, which is `$1`: `$2` to `$5`, in the order of [`Selection`]; `$6` is its
/// last part.
macro_rules! selected {
    () => {
        "($2::uuid IS NULL OR c.environment_id = $2) AND ($3::text IS NULL OR c.role = $3)
         AND ($4::timestamptz IS NULL OR c.issued_at <= $4) AND ($5::text IS NULL OR c.issuer_key = $5)"
    };
}
pub(super) use selected;

/// What joins `l` of `credential_lives` with the credentials `c` that are not revoked and end after `$end`.
macro_rules! ending_after {
    ($end:literal) => {
        concat!(
            "c.environment_id = l.environment_id AND c.role = l.role AND c.expires_at - c.issued_at = l.life
             AND c.revoked_at IS NULL AND c.issued_at > issued_for(",
            $end,
            ", l.life)"
        )
    };
}
pub(super) use ending_after;

/// How many ids of revoked credentials are told.
pub const TOLD: usize = 1000;

macro_rules! select {
    ($sql:expr, $selection:expr) => {
        sqlx::query($sql)
            .bind($selection.org)
            .bind($selection.environment)
            .bind(&$selection.role)
            .bind($selection.issued_until.and_then(|at| DateTime::from_timestamp(at, 0)))
            .bind($selection.signing_key.map(|key| key.to_string()))
            .bind($selection.ends_after)
    };
}
pub(super) use select;

/// Revokes what is selected; the answer is how many, and the first [`TOLD`] of them.
pub async fn revoke(
    connection: &mut PgConnection,
    selection: &Selection,
    now: DateTime<Utc>,
    reason: Option<&str>,
) -> Result<(i64, Vec<Uuid>)> {
    let sql = concat!(
        "WITH revoked AS (
             UPDATE credentials c SET revoked_at = GREATEST($7, c.issued_at), revocation_reason = $8
             FROM credential_lives($1) l WHERE ",
        ending_after!("$6"),
        " AND ",
        selected!(),
        " RETURNING c.id)
         SELECT (SELECT count(*) FROM revoked) AS n, ARRAY(SELECT id FROM revoked ORDER BY id LIMIT 1000) AS ids"
    );
    let row = select!(sql, selection).bind(now).bind(reason).fetch_one(connection).await?;
    Ok((row.try_get("n")?, row.try_get("ids")?))
}

/// The revoked credentials of an organization that end after `ends_after` and are not covered by its cutoff.
pub async fn revoked(
    connection: &mut PgConnection,
    org: Uuid,
    ends_after: DateTime<Utc>,
    cutoff: Option<i64>,
) -> Result<Vec<Revoked>> {
    let rows = sqlx::query(
        "SELECT c.user_key, c.issuer_key, c.issued_at, c.revoked_at, c.expires_at
         FROM environments e JOIN credentials c ON c.environment_id = e.id
         WHERE e.organization_id = $1 AND c.revoked_at IS NOT NULL AND c.expires_at > $2
           AND ($3::timestamptz IS NULL OR c.issued_at > $3)",
    )
    .bind(org)
    .bind(ends_after)
    .bind(cutoff.and_then(|at| DateTime::from_timestamp(at, 0)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// The credentials of roles of an organization that end after `ends_after`, as if they were revoked when they
/// were issued: for roles that are no more.
pub async fn of_roles(
    connection: &mut PgConnection,
    org: Uuid,
    roles: &[&str],
    ends_after: DateTime<Utc>,
) -> Result<Vec<Revoked>> {
    let rows = sqlx::query(concat!(
        "SELECT c.user_key, c.issuer_key, c.issued_at, c.issued_at AS revoked_at, c.expires_at
         FROM credential_lives($1) l JOIN credentials c ON ",
        ending_after!("$3"),
        " WHERE l.role = ANY($2)"
    ))
    .bind(org)
    .bind(roles)
    .bind(ends_after)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

fn from_row(row: &PgRow) -> Result<Revoked> {
    let issued_at: DateTime<Utc> = row.try_get("issued_at")?;
    let revoked_at: DateTime<Utc> = row.try_get("revoked_at")?;
    Ok(Revoked {
        user: parse(row.try_get("user_key")?)?,
        issuer: parse(row.try_get("issuer_key")?)?,
        issued_at: issued_at.timestamp(),
        revoked_at: revoked_at.timestamp(),
        expires_at: row.try_get("expires_at")?,
    })
}

/// The cutoff of an organization.
pub async fn cutoff(connection: &mut PgConnection, org: Uuid) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar("SELECT revoked_until FROM organizations WHERE id = $1")
        .bind(org)
        .fetch_one(connection)
        .await?)
}

/// Moves the cutoff of an organization forward. Whoever does it holds the organization's lock, and recording
/// a credential waits for that lock, so none is recorded that the cutoff covers.
pub async fn set_cutoff(connection: &mut PgConnection, org: Uuid, cutoff: i64) -> Result<()> {
    sqlx::query("UPDATE organizations SET revoked_until = $2 WHERE id = $1")
        .bind(org)
        .bind(cutoff)
        .execute(connection)
        .await?;
    Ok(())
}

/// How large an account is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountSize {
    /// Bytes of its token.
    pub bytes: i64,
    /// Users that it names as revoked.
    pub entries: i32,
    /// When pruning them is worth a push.
    pub prune_at: Option<DateTime<Utc>>,
}

/// How large an account is now.
pub async fn size(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<AccountSize> {
    let row = sqlx::query(
        "SELECT COALESCE(octet_length(jwt), 0)::bigint AS bytes, entries, prune_at FROM accounts WHERE account_key = $1",
    )
    .bind(account.to_string())
    .fetch_one(connection)
    .await?;
    Ok(AccountSize {
        bytes: row.try_get("bytes")?,
        entries: row.try_get("entries")?,
        prune_at: row.try_get("prune_at")?,
    })
}

/// Notes what an account's current token names, and when pruning that is worth a push.
pub async fn note(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
    entries: usize,
    prune_at: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query(
        "UPDATE accounts SET entries = $2, prune_at = $3
         WHERE account_key = $1 AND (entries, prune_at) IS DISTINCT FROM ($2, $3)",
    )
    .bind(account.to_string())
    .bind(i32::try_from(entries).unwrap_or(i32::MAX))
    .bind(prune_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The slug of one organization whose account is due to be pruned and is not in `except`.
pub async fn due_for_pruning(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    except: &[Uuid],
) -> Result<Option<crate::model::OrgSlug>> {
    let slug: Option<String> = sqlx::query_scalar(
        "SELECT o.slug FROM accounts a JOIN organizations o ON o.account_key = a.account_key
         WHERE a.prune_at <= $1 AND o.state IN ('active', 'suspended') AND o.id <> ALL($2)
         ORDER BY a.prune_at LIMIT 1 FOR UPDATE OF o SKIP LOCKED",
    )
    .bind(now)
    .bind(except)
    .fetch_optional(connection)
    .await?;
    slug.as_deref().map(parse).transpose()
}

impl Store {
    /// Of these users of an organization, those that no valid credential is left for, though the ledger
    /// knows one.
    pub async fn refused_users(&self, org: Uuid, users: &[String], now: DateTime<Utc>) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            // In two parts, as the indexes on the key are.
            "SELECT c.user_key FROM (
                 SELECT user_key, environment_id, revoked_at, expires_at FROM credentials
                 WHERE user_key = ANY($2) AND revoked_at IS NULL AND NOT renewed
                 UNION ALL SELECT user_key, environment_id, revoked_at, expires_at FROM credentials
                 WHERE user_key = ANY($2) AND (revoked_at IS NOT NULL OR renewed)) c
             JOIN environments e ON e.id = c.environment_id AND e.organization_id = $1 GROUP BY c.user_key
             HAVING NOT bool_or(c.revoked_at IS NULL AND c.expires_at > $3)",
        )
        .bind(org)
        .bind(users)
        .bind(now)
        .fetch_all(self.pool())
        .await?)
    }

    /// The largest account and how many are larger than `threshold` bytes: of those that name anybody.
    pub async fn largest_accounts(&self, threshold: i64) -> Result<(i64, i64, i64)> {
        let row = sqlx::query(
            "SELECT COALESCE(max(octet_length(jwt)), 0)::bigint AS bytes, COALESCE(max(entries), 0)::bigint AS entries,
                 count(*) FILTER (WHERE octet_length(jwt) > $1) AS over FROM accounts WHERE entries > 0",
        )
        .bind(threshold)
        .fetch_one(self.pool())
        .await?;
        Ok((row.try_get("bytes")?, row.try_get("entries")?, row.try_get("over")?))
    }

    /// The earliest issue time that a new user of this account may have, Unix seconds: servers refuse what
    /// is not younger than the cutoff.
    pub async fn issued_from(&self, account: PublicKey<Account>) -> Result<i64> {
        let cutoff: Option<i64> = sqlx::query_scalar("SELECT revoked_until FROM organizations WHERE account_key = $1")
            .bind(account.to_string())
            .fetch_optional(self.pool())
            .await?
            .flatten();
        Ok(cutoff.map_or(i64::MIN, |at| at + 1))
    }
}
