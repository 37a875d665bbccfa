//! What is valid of an organization: how many credentials, the oldest, the youngest, and what each signing key has
//! signed. None of it looks at credentials that have ended, and what is selected costs as much as there is of it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    Store, parse,
    revocations::{Selection, ending_after, select, selected},
};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

/// What one signing key of an organization has signed, where that is selected or stands already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The key.
    pub key: PublicKey<Account>,
    /// Credentials that are selected.
    pub selected: i64,
    /// There are valid credentials that are not.
    pub others: bool,
    /// Revoked credentials that a server may still accept and the cutoff does not cover.
    pub standing: i64,
    /// Those of `selected` and `standing` that were issued after the time in question.
    pub late: i64,
}

/// How many credentials are selected.
pub async fn count(connection: &mut PgConnection, selection: &Selection) -> Result<usize> {
    let sql = concat!(
        "SELECT count(*) AS n FROM credential_lives($1) l JOIN credentials c ON ",
        ending_after!("$6"),
        " WHERE ",
        selected!()
    );
    let n: i64 = select!(sql, selection).fetch_one(connection).await?.try_get("n")?;
    Ok(usize::try_from(n).unwrap_or_default())
}

/// The issue time, Unix seconds, of the oldest valid credential that is not selected.
pub async fn earliest_other(
    connection: &mut PgConnection,
    selection: &Selection,
    now: DateTime<Utc>,
) -> Result<Option<i64>> {
    let sql = concat!(
        "SELECT min(c.issued_at) AS at FROM credential_lives($1) l CROSS JOIN LATERAL (
             SELECT c.issued_at FROM credentials c WHERE ",
        ending_after!("$7"),
        " AND NOT (",
        selected!(),
        " AND c.expires_at > $6) ORDER BY c.issued_at LIMIT 1) c"
    );
    let at: Option<DateTime<Utc>> = select!(sql, selection).bind(now).fetch_one(connection).await?.try_get("at")?;
    Ok(at.map(|at| at.timestamp()))
}

/// What each signing key of the organization has signed that a server may still accept, of what is selected and
/// of what is revoked already. `late` counts what was issued after `free_until`.
pub async fn usage(
    connection: &mut PgConnection,
    selection: &Selection,
    now: DateTime<Utc>,
    cutoff: Option<i64>,
    free_until: Option<i64>,
) -> Result<Vec<Usage>> {
    // Of the others it matters only that there are any. Those that end last are looked at first: what is selected
    // was mostly issued before.
    let sql = concat!(
        "SELECT u.*, (SELECT true FROM credentials c
             WHERE c.issuer_key = u.issuer_key AND c.revoked_at IS NULL AND c.expires_at > $7 AND NOT (",
        selected!(),
        ") ORDER BY c.expires_at DESC LIMIT 1) IS NOT NULL AS others
         FROM (
             SELECT issuer_key, count(*) FILTER (WHERE NOT standing) AS selected, count(*) FILTER (WHERE standing) AS standing,
                 count(*) FILTER (WHERE $9::timestamptz IS NULL OR issued_at > $9) AS late
             FROM (
                 SELECT c.issuer_key, c.issued_at, false AS standing FROM credential_lives($1) l JOIN credentials c ON ",
        ending_after!("$6"),
        " WHERE ",
        selected!(),
        "        UNION ALL
                 SELECT c.issuer_key, c.issued_at, true FROM environments e JOIN credentials c ON c.environment_id = e.id
                 WHERE e.organization_id = $1 AND c.revoked_at IS NOT NULL AND c.expires_at > $6
                     AND ($8::timestamptz IS NULL OR c.issued_at > $8)) AS each_one
             GROUP BY issuer_key) AS u"
    );
    let time = |at: Option<i64>| at.and_then(|at| DateTime::from_timestamp(at, 0));
    let query = select!(sql, selection).bind(now).bind(time(cutoff)).bind(time(free_until));
    let rows = query.fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Usage {
                key: parse(row.try_get("issuer_key")?)?,
                selected: row.try_get("selected")?,
                others: row.try_get("others")?,
                standing: row.try_get("standing")?,
                late: row.try_get("late")?,
            })
        })
        .collect()
}

/// The issue time of the youngest valid credential, Unix seconds.
pub async fn latest(connection: &mut PgConnection, org: Uuid, now: DateTime<Utc>) -> Result<Option<i64>> {
    let sql = concat!(
        "SELECT max(c.issued_at) FROM credential_lives($1) l CROSS JOIN LATERAL (
             SELECT c.issued_at FROM credentials c WHERE ",
        ending_after!("$2"),
        " ORDER BY c.issued_at DESC LIMIT 1) c"
    );
    let at: Option<DateTime<Utc>> = sqlx::query_scalar(sql).bind(org).bind(now).fetch_one(connection).await?;
    Ok(at.map(|at| at.timestamp()))
}

/// The oldest valid credential: its issue time, Unix seconds, and its end.
pub async fn oldest(
    connection: &mut PgConnection,
    org: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<(i64, DateTime<Utc>)>> {
    let sql = concat!(
        "SELECT c.issued_at, c.expires_at FROM credential_lives($1) l CROSS JOIN LATERAL (
             SELECT c.issued_at, c.expires_at FROM credentials c WHERE ",
        ending_after!("$2"),
        " ORDER BY c.issued_at LIMIT 1) c ORDER BY c.issued_at LIMIT 1"
    );
    let row = sqlx::query(sql).bind(org).bind(now).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    let issued_at: DateTime<Utc> = row.try_get("issued_at")?;
    Ok(Some((issued_at.timestamp(), row.try_get("expires_at")?)))
}

impl Store {
    /// How many credentials of an organization are valid, which reads an index of all that are, and the ids of the
    /// `limit` oldest of them: what keeps the cutoff where it is.
    pub async fn valid_and_oldest(&self, org: Uuid, now: DateTime<Utc>, limit: i64) -> Result<(i64, Vec<Uuid>)> {
        let sql = concat!(
            "SELECT (SELECT count(*) FROM credential_lives($1) l JOIN credentials c ON ",
            ending_after!("$2"),
            ") AS n, ARRAY(
                 SELECT c.id FROM credential_lives($1) l CROSS JOIN LATERAL (
                     SELECT c.id, c.issued_at FROM credentials c WHERE ",
            ending_after!("$2"),
            "        ORDER BY c.issued_at, c.id LIMIT $3) c ORDER BY c.issued_at, c.id LIMIT $3) AS ids"
        );
        let row = sqlx::query(sql).bind(org).bind(now).bind(limit).fetch_one(self.pool()).await?;
        Ok((row.try_get("n")?, row.try_get("ids")?))
    }
}
