//! The audit log: written in the transaction of the change, never changed.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    Recorded, Store,
    idempotency::{self, Operation},
    page::{Page, cut},
};
use crate::{error::Result, jwt::envelope::Signed, model::view::AuditEventView};

/// Where a change comes from, beside who asked for it.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Who vouches for the actor.
    pub issuer: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// The idempotency key under which it is done.
    pub operation: Option<Operation>,
}

/// An event to be written.
#[derive(Clone, Debug)]
pub struct Event {
    /// Identifier.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What was done, such as `organization.suspend`.
    pub action: &'static str,
    /// On which organization.
    pub org: Option<String>,
    /// On what.
    pub target: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Public parts of the change.
    pub detail: serde_json::Value,
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this organization.
    pub org: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// This action.
    pub action: Option<String>,
    /// Not before.
    pub since: Option<DateTime<Utc>>,
}

/// Writes an event. Refused when the change is done under an idempotency key that somebody else has
/// taken over meanwhile: then the whole transaction must not be.
pub async fn record(connection: &mut PgConnection, event: &Event) -> Result<()> {
    if let Some(operation) = event.origin.operation {
        idempotency::carry_out(&mut *connection, operation).await?;
    }
    sqlx::query(
        "INSERT INTO audit_events (id, at, actor, action, org, target, request_id, detail, issuer, address, operation)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8::json, $9, $10, $11)",
    )
    .bind(event.id)
    .bind(event.at)
    .bind(&event.actor)
    .bind(event.action)
    .bind(&event.org)
    .bind(&event.target)
    .bind(&event.origin.request_id)
    .bind(event.detail.to_string())
    .bind(&event.origin.issuer)
    .bind(&event.origin.address)
    .bind(event.origin.operation.map(|operation| operation.id))
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// Records a token of our own (a system user, a provisioning user, a request to delete), which lives
    /// for minutes in memory: the audit event is its whole record.
    pub async fn record_own<T>(&self, event: &Event, signed: Signed<T>) -> Result<Recorded<T>> {
        let mut tx = self.begin().await?;
        record(&mut tx, event).await?;
        tx.commit().await?;
        Ok(Recorded::after_commit(signed))
    }

    /// Lists events, the newest first.
    pub async fn audit_events(&self, filter: &Filter, page: &Page<i64>) -> Result<(Vec<AuditEventView>, bool)> {
        let rows = sqlx::query(
            "SELECT id, seq, at, actor, issuer, address, action, org, target, request_id, detail FROM audit_events
             WHERE ($1::text IS NULL OR org = $1) AND ($2::text IS NULL OR actor = $2)
               AND ($3::text IS NULL OR action = $3) AND ($4::timestamptz IS NULL OR at >= $4)
               AND ($5::bigint IS NULL OR seq < $5)
             ORDER BY seq DESC LIMIT $6",
        )
        .bind(&filter.org)
        .bind(&filter.actor)
        .bind(&filter.action)
        .bind(filter.since)
        .bind(page.after)
        .bind(page.limit + 1)
        .fetch_all(self.pool())
        .await?;
        let (rows, more) = cut(rows, page.limit);
        let events = rows.iter().map(|row| {
            Ok(AuditEventView {
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
        });
        Ok((events.collect::<Result<_>>()?, more))
    }
}
