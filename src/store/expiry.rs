//! Warnings before the end of credentials: which are due, and how far they have come. The watermark is one
//! row that only moves forward, in the order of end and id; what lies behind it is never looked at again.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    Store,
    credentials::{COLUMNS, from_row},
};
use crate::{error::Result, model::Credential};

/// How far the watermark may lie behind when nobody is to be warned: moving it costs a write, reading on
/// from it a look at what ended up in between.
const LAG: TimeDelta = TimeDelta::hours(1);

/// Behind the watermark, ending until `$1`, valid at `$2`, neither rotated nor revoked, and issued to live longer than
/// `$3` seconds: whoever issues for less than the warning time knows the end. The watermark is read by itself: as a
/// condition of a join it would not be where the index is entered.
macro_rules! to_be_warned {
    () => {
        " FROM credentials c JOIN environments e ON e.id = c.environment_id
             JOIN organizations o ON o.id = e.organization_id AND o.state IN ('active', 'suspended')
         WHERE (c.expires_at, c.id) > ((SELECT ends_at FROM expiry_warnings), (SELECT id FROM expiry_warnings)) AND c.expires_at <= $1 AND c.expires_at > $2
           AND c.revoked_at IS NULL AND c.superseded_at IS NULL
           AND c.expires_at - c.issued_at > make_interval(secs => $3)"
    };
}

impl Store {
    /// Whether somebody is to be warned of an end until `horizon`, or the watermark lies far behind it.
    pub async fn warnings_due(&self, now: DateTime<Utc>, horizon: DateTime<Utc>) -> Result<bool> {
        let sql = concat!(
            "SELECT (SELECT ends_at < $4 FROM expiry_warnings) OR EXISTS (SELECT 1",
            to_be_warned!(),
            ") AS due"
        );
        let row = sqlx::query(sql)
            .bind(horizon)
            .bind(now)
            .bind(seconds(horizon - now))
            .bind(horizon - LAG)
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get("due")?)
    }
}

/// The next credentials to warn of, at most `limit`, in the order of their end. Whoever gets them holds the
/// watermark until its transaction ends; none: somebody else holds it.
pub async fn claim_warnings(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    horizon: DateTime<Utc>,
    limit: i64,
) -> Result<Option<Vec<Credential>>> {
    let held =
        sqlx::query("SELECT 1 FROM expiry_warnings FOR UPDATE SKIP LOCKED").fetch_optional(&mut *connection).await?;
    if held.is_none() {
        return Ok(None);
    }
    // The only other part of the text is a list of columns.
    let sql = format!("SELECT {COLUMNS}{} ORDER BY c.expires_at, c.id LIMIT $4", to_be_warned!());
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(horizon)
        .bind(now)
        .bind(seconds(horizon - now))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    Ok(Some(rows.iter().map(from_row).collect::<Result<_>>()?))
}

/// Moves the watermark, never back.
pub async fn warned_until(connection: &mut PgConnection, end: DateTime<Utc>, id: Uuid) -> Result<()> {
    sqlx::query("UPDATE expiry_warnings SET ends_at = $1, id = $2 WHERE (ends_at, id) < ($1, $2)")
        .bind(end)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

fn seconds(time: TimeDelta) -> f64 {
    // Below 2^53 for any time that the database can hold.
    time.as_seconds_f64()
}
