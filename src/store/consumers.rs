//! Durable pull consumers of environments.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{Store, parse};
use crate::{
    error::{Error, Result},
    model::{ConsumerConfig, ConsumerState, EnvType, ItemName, OrgSlug},
    nkey::{Account, PublicKey},
};

/// A consumer.
#[derive(Clone, Debug)]
pub struct ConsumerRow {
    /// Identifier.
    pub id: Uuid,
    /// Name, also in JetStream.
    pub name: ItemName,
    /// What it does.
    pub config: ConsumerConfig,
    /// State.
    pub state: ConsumerState,
    /// Why making or removing it failed last.
    pub error: Option<String>,
}

/// A consumer that is to be made or removed.
#[derive(Clone, Debug)]
pub struct DueConsumer {
    /// The consumer, `Pending` or `Deleting`.
    pub row: ConsumerRow,
    /// Organization.
    pub org: OrgSlug,
    /// Environment type.
    pub env_type: EnvType,
    /// The organization's account.
    pub account: PublicKey<Account>,
    /// Attempts so far, with this one.
    pub attempts: i32,
}

fn from_row(row: &PgRow) -> Result<ConsumerRow> {
    let Json(config) = row.try_get("config")?;
    Ok(ConsumerRow {
        id: row.try_get("id")?,
        name: parse(row.try_get("name")?)?,
        config,
        state: ConsumerState::parse(row.try_get("state")?).ok_or_else(|| Error::internal("unknown consumer state"))?,
        error: row.try_get("error")?,
    })
}

/// Keeps a new consumer, due at once.
pub async fn insert(
    connection: &mut PgConnection,
    environment: Uuid,
    id: Uuid,
    name: &ItemName,
    config: &ConsumerConfig,
    now: DateTime<Utc>,
) -> Result<()> {
    let config = serde_json::to_string(config)
        .map_err(|error| Error::internal("unwritable configuration").with_source(error))?;
    sqlx::query(
        "INSERT INTO consumers (id, environment_id, name, config, state, due_at, created_at)
         VALUES ($1, $2, $3, $4::text::json, 'pending', $5, $5)",
    )
    .bind(id)
    .bind(environment)
    .bind(name.as_str())
    .bind(config)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// The consumer of this name that is not deleted.
pub async fn find(connection: &mut PgConnection, environment: Uuid, name: &ItemName) -> Result<Option<ConsumerRow>> {
    let row = sqlx::query(
        "SELECT id, name, config, state, error FROM consumers
         WHERE environment_id = $1 AND name = $2 AND state <> 'deleted'",
    )
    .bind(environment)
    .bind(name.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(from_row).transpose()
}

/// Starts the deletion of a consumer.
pub async fn start_deletion(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE consumers SET state = 'deleting', due_at = $2, attempts = 0, error = NULL WHERE id = $1")
        .bind(id)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Nothing more is to be done for the consumers of an environment: they go with its stream.
pub async fn abandon(connection: &mut PgConnection, environment: Uuid) -> Result<()> {
    sqlx::query("UPDATE consumers SET state = 'deleted', due_at = NULL WHERE environment_id = $1")
        .bind(environment)
        .execute(connection)
        .await?;
    Ok(())
}

/// As [`abandon`], for all environments of an organization whose account goes.
pub async fn abandon_all(connection: &mut PgConnection, org: Uuid) -> Result<()> {
    sqlx::query(
        "UPDATE consumers c SET state = 'deleted', due_at = NULL
         FROM environments e WHERE e.id = c.environment_id AND e.organization_id = $1",
    )
    .bind(org)
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// The consumers of an environment that are not deleted, by name.
    pub async fn consumers(&self, environment: Uuid) -> Result<Vec<ConsumerRow>> {
        let rows = sqlx::query(
            "SELECT id, name, config, state, error FROM consumers
             WHERE environment_id = $1 AND state <> 'deleted' ORDER BY name",
        )
        .bind(environment)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(from_row).collect()
    }

    /// The consumer of this name that is not deleted.
    pub async fn consumer(&self, environment: Uuid, name: &ItemName) -> Result<Option<ConsumerRow>> {
        let mut connection = self.pool().acquire().await?;
        find(&mut connection, environment, name).await
    }

    /// Takes up to `limit` due consumers of ready environments of active organizations, for `lease`
    /// seconds. A ready environment has its stream, so some server has the account.
    pub async fn claim_due_consumers(&self, limit: i64, lease: i64, now: DateTime<Utc>) -> Result<Vec<DueConsumer>> {
        let rows = sqlx::query(
            "UPDATE consumers c SET due_at = $3 + make_interval(secs => $2), attempts = c.attempts + 1
             FROM (SELECT c.id, o.slug, o.account_key, e.env_type FROM consumers c
                   JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
                   WHERE c.due_at <= $3 AND e.state = 'ready' AND o.state = 'active'
                   ORDER BY c.due_at LIMIT $1 FOR UPDATE OF c SKIP LOCKED) AS due
             WHERE c.id = due.id
             RETURNING c.id, c.name, c.config, c.state, c.error, c.attempts, due.slug, due.account_key, due.env_type",
        )
        .bind(limit)
        .bind(f64::from(i32::try_from(lease).unwrap_or(i32::MAX)))
        .bind(now)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DueConsumer {
                    row: from_row(row)?,
                    org: parse(row.try_get("slug")?)?,
                    env_type: parse(row.try_get("env_type")?)?,
                    account: parse(row.try_get("account_key")?)?,
                    attempts: row.try_get("attempts")?,
                })
            })
            .collect()
    }

    /// The consumer is as `worked_on` wanted it: pending becomes ready, deleting deleted. Nothing happens
    /// when the state has changed meanwhile: it is due again for what it wants now.
    pub async fn consumer_done(&self, id: Uuid, worked_on: ConsumerState) -> Result<()> {
        sqlx::query(
            "UPDATE consumers SET state = CASE state WHEN 'pending' THEN 'ready' WHEN 'deleting' THEN 'deleted' ELSE state END,
                 due_at = NULL, attempts = 0, error = NULL WHERE id = $1 AND state = $2",
        )
        .bind(id)
        .bind(worked_on.as_str())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The attempt failed with these words; look again at `again_at`. As [`Self::consumer_done`], nothing
    /// happens when something else is wanted meanwhile.
    pub async fn consumer_failed(
        &self,
        id: Uuid,
        worked_on: ConsumerState,
        error: &str,
        again_at: DateTime<Utc>,
    ) -> Result<()> {
        sqlx::query("UPDATE consumers SET error = $3, due_at = $4 WHERE id = $1 AND state = $2 AND due_at IS NOT NULL")
            .bind(id)
            .bind(worked_on.as_str())
            .bind(error)
            .bind(again_at)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
