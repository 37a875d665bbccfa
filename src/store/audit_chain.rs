//! The chain over the audit log: which events are to be linked next, the links, and the way back
//! along them. What a link is stands in `model::audit`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Store, Tx, digest};
use crate::{
    error::Result,
    model::audit::{ChainHash, ChainedEvent, FoundLink},
};

/// Where the chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last position; 0: nothing is linked yet.
    pub position: i64,
    /// The hash there.
    pub hash: ChainHash,
}

/// Events that no open transaction can precede any more.
#[derive(Debug)]
pub struct Settled {
    /// In the order in which they are to be linked.
    pub events: Vec<ChainedEvent>,
    /// There may be more of them.
    pub more: bool,
    /// Everything before this transaction, and of it everything up to this number, is among them or linked already.
    upto: (String, i64),
}

/// The first `$1` events `e` of those that `$which` names, in the order of their transactions.
macro_rules! event_sql {
    ($which:literal) => {
        concat!(
            "SELECT e.id, e.seq, e.at, e.actor, e.issuer, e.address, e.action, e.org, e.target, e.request_id,
                 e.detail::text AS detail, e.xid::text AS xid, EXISTS (SELECT FROM audit_chain c WHERE c.event = e.id) AS linked
             FROM audit_events e ",
            $which,
            " ORDER BY e.xid, e.seq LIMIT $1"
        )
    };
}

/// Takes the right to write links, held until the transaction ends; None: another replica has it.
pub async fn claim(tx: &mut Tx) -> Result<Option<Head>> {
    let free: Option<bool> =
        sqlx::query_scalar("SELECT true FROM audit_progress FOR UPDATE SKIP LOCKED").fetch_optional(&mut **tx).await?;
    if free.is_none() {
        return Ok(None);
    }
    head(tx).await.map(Some)
}

async fn head(connection: &mut PgConnection) -> Result<Head> {
    let row = sqlx::query("SELECT position, hash FROM audit_chain ORDER BY position DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    row.map_or(Ok(Head { position: 0, hash: ChainHash::START }), |row| {
        Ok(Head { position: row.try_get("position")?, hash: ChainHash(digest(row.try_get("hash")?)?) })
    })
}

/// The next events to link, at most `limit`. Numbers of events are drawn before they are committed, so the
/// order of numbers says nothing about what may still come; the order of transactions does: what is
/// older than every open transaction is complete.
pub async fn settled(tx: &mut Tx, limit: i64) -> Result<Settled> {
    // A restored database counts its transactions anew; then everything that is not linked is looked for.
    sqlx::query(
        "UPDATE audit_progress SET linked = '0', linked_seq = 0 WHERE linked > pg_snapshot_xmax(pg_current_snapshot())",
    )
    .execute(&mut **tx)
    .await?;
    // Before the events are read: what commits meanwhile is not passed over.
    let open: String =
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetch_one(&mut **tx).await?;
    // What the index gives next, linked already or not: so a page costs the same however much waits behind it.
    let page = sqlx::query(event_sql!(
        "WHERE (e.xid, e.seq) > ((SELECT linked FROM audit_progress), (SELECT linked_seq FROM audit_progress))
             AND e.xid < $2::text::xid8"
    ))
    .bind(limit)
    .bind(&open)
    .fetch_all(&mut **tx)
    .await?;
    let (full, upto) = match page.last() {
        Some(last) if i64::try_from(page.len()).unwrap_or(i64::MAX) == limit => {
            (true, (last.try_get("xid")?, last.try_get("seq")?))
        }
        _ => (false, (open, 0)),
    };
    let mut events = Vec::with_capacity(page.len());
    for row in &page {
        if !row.try_get("linked")? {
            events.push(event(row)?);
        }
    }
    if !full {
        // Of before the database was restored. Elsewhere there are none.
        let ahead = sqlx::query(event_sql!(
            "WHERE e.xid > pg_snapshot_xmax(pg_current_snapshot())
                 AND NOT EXISTS (SELECT FROM audit_chain c WHERE c.event = e.id)"
        ))
        .bind(limit)
        .fetch_all(&mut **tx)
        .await?;
        for row in &ahead {
            events.push(event(row)?);
        }
    }
    Ok(Settled { events, more: full, upto })
}

/// Writes the links behind `head` and remembers how far it came.
pub async fn link(tx: &mut Tx, head: Head, settled: &Settled, now: DateTime<Utc>) -> Result<Head> {
    let mut end = head;
    let (mut positions, mut hashes) = (Vec::new(), Vec::new());
    for event in &settled.events {
        end.position += 1;
        end.hash = event.link(end.hash, end.position);
        positions.push(end.position);
        hashes.push(end.hash.0.to_vec());
    }
    if !settled.events.is_empty() {
        sqlx::query(
            "INSERT INTO audit_chain (position, event, hash, linked_at)
             SELECT *, $4 FROM UNNEST($1::bigint[], $2::uuid[], $3::bytea[])",
        )
        .bind(&positions)
        .bind(settled.events.iter().map(|event| event.id).collect::<Vec<_>>())
        .bind(&hashes)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    }
    sqlx::query(
        "UPDATE audit_progress SET linked = $1::text::xid8, linked_seq = $2 WHERE (linked, linked_seq) < ($1::text::xid8, $2)",
    )
    .bind(&settled.upto.0)
    .bind(settled.upto.1)
    .execute(&mut **tx)
    .await?;
    Ok(end)
}

impl Store {
    /// The links behind `position`, at most `limit`, in their order.
    pub async fn audit_links(&self, position: i64, limit: i64) -> Result<Vec<FoundLink>> {
        let rows = sqlx::query(
            "SELECT c.position, c.event, c.hash, e.id, e.seq, e.at, e.actor, e.issuer, e.address, e.action, e.org,
                 e.target, e.request_id, e.detail::text AS detail
             FROM audit_chain c LEFT JOIN audit_events e ON e.id = c.event
             WHERE c.position > $1 ORDER BY c.position LIMIT $2",
        )
        .bind(position)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let there: Option<uuid::Uuid> = row.try_get("id")?;
                Ok(FoundLink {
                    position: row.try_get("position")?,
                    event_id: row.try_get("event")?,
                    hash: ChainHash(digest(row.try_get("hash")?)?),
                    event: there.map(|_| event(row)).transpose()?,
                })
            })
            .collect()
    }

    /// The last position of the chain.
    pub async fn audit_head(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT COALESCE(max(position), 0) FROM audit_chain").fetch_one(self.pool()).await?)
    }

    /// The last position that was published.
    pub async fn audit_published(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT published FROM audit_progress").fetch_one(self.pool()).await?)
    }

    /// Takes the right to publish until `until`, or keeps it: the last published position. None:
    /// another replica has it.
    pub async fn lease_publishing(
        &self,
        who: uuid::Uuid,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<i64>> {
        Ok(sqlx::query_scalar(
            "UPDATE audit_progress SET publisher = $1, publisher_until = $3
             WHERE publisher IS NULL OR publisher = $1 OR publisher_until < $2 RETURNING published",
        )
        .bind(who)
        .bind(now)
        .bind(until)
        .fetch_optional(self.pool())
        .await?)
    }

    /// The stream has everything up to this position.
    pub async fn audit_was_published(&self, position: i64) -> Result<()> {
        sqlx::query("UPDATE audit_progress SET published = GREATEST(published, $1)")
            .bind(position)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// How many links the stream does not have yet.
    pub async fn audit_unpublished(&self) -> Result<i64> {
        Ok(sqlx::query_scalar(
            "SELECT COALESCE((SELECT max(position) FROM audit_chain), 0) - (SELECT published FROM audit_progress)",
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// An event that should be linked and is not, the first by number: it was put into the table behind
    /// what was linked already. Looks at all events.
    pub async fn audit_unlinked(&self) -> Result<Option<uuid::Uuid>> {
        Ok(sqlx::query_scalar(
            "SELECT e.id FROM audit_events e LEFT JOIN audit_chain c ON c.event = e.id
             WHERE c.event IS NULL AND e.xid < (SELECT linked FROM audit_progress) ORDER BY e.seq LIMIT 1",
        )
        .fetch_optional(self.pool())
        .await?)
    }
}

fn event(row: &PgRow) -> Result<ChainedEvent> {
    Ok(ChainedEvent {
        id: row.try_get("id")?,
        seq: row.try_get("seq")?,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        issuer: row.try_get("issuer")?,
        address: row.try_get("address")?,
        action: row.try_get("action")?,
        org: row.try_get("org")?,
        target: row.try_get("target")?,
        request_id: row.try_get("request_id")?,
        detail: row.try_get("detail")?,
    })
}
