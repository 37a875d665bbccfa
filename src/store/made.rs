//! What was made in JetStream, and is to be made again.

use sqlx::Row;
use uuid::Uuid;

use super::{Store, audit, parse};
use crate::{
    error::Result,
    model::{EnvType, OrgSlug},
    nkey::{Account, PublicKey},
};

/// An environment whose stream and bucket were made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Identifier.
    pub environment: Uuid,
    /// Organization.
    pub org: OrgSlug,
    /// Its account.
    pub account: PublicKey<Account>,
    /// Type.
    pub env_type: EnvType,
    /// The names of its consumers that were made.
    pub consumers: Vec<String>,
}

impl Store {
    /// Everything that was made for active organizations and is not to be removed.
    pub async fn made(&self) -> Result<Vec<Made>> {
        let rows = sqlx::query(
            "SELECT e.id, o.slug, o.account_key, e.env_type,
                    COALESCE(array_agg(c.name ORDER BY c.name) FILTER (WHERE c.state = 'ready'), '{}') AS consumers
             FROM environments e JOIN organizations o ON o.id = e.organization_id
             LEFT JOIN consumers c ON c.environment_id = e.id
             WHERE e.state = 'ready' AND o.state = 'active' GROUP BY e.id, o.slug, o.account_key",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Made {
                    environment: row.try_get("id")?,
                    org: parse(row.try_get("slug")?)?,
                    account: parse(row.try_get("account_key")?)?,
                    env_type: parse(row.try_get("env_type")?)?,
                    consumers: row.try_get("consumers")?,
                })
            })
            .collect()
    }

    /// Has consumers of a ready environment made again, and with `streams` its stream and bucket before.
    /// False: it is no longer ready, perhaps since another replica was faster; then nothing is written.
    pub async fn make_again(
        &self,
        environment: Uuid,
        streams: bool,
        consumers: &[String],
        event: &audit::Event,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let ready = sqlx::query(
            "UPDATE environments SET state = CASE WHEN $2 THEN 'pending' ELSE state END,
                 due_at = CASE WHEN $2 THEN $3 ELSE due_at END, attempts = 0 WHERE id = $1 AND state = 'ready'",
        )
        .bind(environment)
        .bind(streams)
        .bind(event.at)
        .execute(&mut *tx)
        .await?;
        let again = sqlx::query(
            "UPDATE consumers SET state = 'pending', due_at = $3, attempts = 0
             WHERE environment_id = $1 AND name = ANY($2) AND state = 'ready'",
        )
        .bind(environment)
        .bind(consumers)
        .bind(event.at)
        .execute(&mut *tx)
        .await?;
        if ready.rows_affected() == 0 || (!streams && again.rows_affected() == 0) {
            return Ok(false);
        }
        audit::record(&mut tx, event).await?;
        tx.commit().await?;
        Ok(true)
    }
}
