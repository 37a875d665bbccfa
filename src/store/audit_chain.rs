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
    /// Everything before this transaction is among them or linked already.
    upto: String,
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
    sqlx::query("UPDATE audit_progress SET linked = '0' WHERE linked > pg_snapshot_xmax(pg_current_snapshot())")
        .execute(&mut **tx)
        .await?;
    let rows = sqlx::query(
        "SELECT e.id, e.seq, e.at, e.actor, e.issuer, e.address, e.action, e.org, e.target, e.request_id,
             e.detail::text AS detail, e.xid::text AS xid, pg_snapshot_xmin(pg_current_snapshot())::text AS open
         FROM audit_events e
         WHERE (e.xid >= (SELECT linked FROM audit_progress) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
                OR e.xid > pg_snapshot_xmax(pg_current_snapshot()))
           AND NOT EXISTS (SELECT 1 FROM audit_chain c WHERE c.event = e.id)
         ORDER BY e.xid, e.seq LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    let full = i64::try_from(rows.len()).unwrap_or(i64::MAX) == limit;
    // Of the last transaction there may be more when the limit cut it.
    let upto = match (rows.last(), rows.first()) {
        (Some(last), _) if full => last.try_get("xid")?,
        (_, Some(first)) => first.try_get("open")?,
        _ => sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetch_one(&mut **tx).await?,
    };
    Ok(Settled { events: rows.iter().map(event).collect::<Result<_>>()?, upto })
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
    sqlx::query("UPDATE audit_progress SET linked = $1::text::xid8 WHERE linked < $1::text::xid8")
        .bind(&settled.upto)
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
