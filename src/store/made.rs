//! What was made in JetStream, and is to be made again.

use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{Store, audit, parse};
use crate::{
    error::Result,
    model::{EnvType, ItemName, OrgSlug},
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
    /// The names of its further streams that were made.
    pub streams: Vec<ItemName>,
    /// The names of its consumers that were made.
    pub consumers: Vec<ItemName>,
}

fn names(row: &PgRow, column: &str) -> Result<Vec<ItemName>> {
    row.try_get::<Vec<String>, _>(column)?.iter().map(|name| parse(name)).collect()
}

impl Store {
    /// Everything that was made for active organizations and is not to be removed.
    pub async fn made(&self) -> Result<Vec<Made>> {
        let rows = sqlx::query(
            "SELECT e.id, o.slug, o.account_key, e.env_type,
                    ARRAY(SELECT name FROM streams WHERE environment_id = e.id AND state = 'ready' ORDER BY name) AS streams,
                    ARRAY(SELECT name FROM consumers WHERE environment_id = e.id AND state = 'ready' ORDER BY name) AS consumers
             FROM environments e JOIN organizations o ON o.id = e.organization_id
             WHERE e.state = 'ready' AND o.state = 'active'",
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
                    streams: names(row, "streams")?,
                    consumers: names(row, "consumers")?,
                })
            })
            .collect()
    }

    /// Has further streams and consumers of a ready environment made again, and with `own` its stream and bucket before.
    /// False: it is no longer ready, perhaps since another replica was faster; then nothing is written.
    pub async fn make_again(
        &self,
        environment: Uuid,
        own: bool,
        streams: &[ItemName],
        consumers: &[ItemName],
        event: &audit::Event,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let ready = sqlx::query(
            "UPDATE environments SET state = CASE WHEN $2 THEN 'pending' ELSE state END,
                 due_at = CASE WHEN $2 THEN $3 ELSE due_at END, attempts = 0 WHERE id = $1 AND state = 'ready'",
        )
        .bind(environment)
        .bind(own)
        .bind(event.at)
        .execute(&mut *tx)
        .await?;
        let again = [
            (
                "UPDATE streams SET state = 'pending', due_at = $3, attempts = 0
              WHERE environment_id = $1 AND name = ANY($2) AND state = 'ready'",
                streams,
            ),
            (
                "UPDATE consumers SET state = 'pending', due_at = $3, attempts = 0
              WHERE environment_id = $1 AND name = ANY($2) AND state = 'ready'",
                consumers,
            ),
        ];
        let mut items = 0;
        for (query, names) in again {
            let names: Vec<&str> = names.iter().map(ItemName::as_str).collect();
            let done = sqlx::query(query).bind(environment).bind(names).bind(event.at).execute(&mut *tx).await?;
            items += done.rows_affected();
        }
        if ready.rows_affected() == 0 || (!own && items == 0) {
            return Ok(false);
        }
        audit::record(&mut tx, event).await?;
        tx.commit().await?;
        Ok(true)
    }
}
