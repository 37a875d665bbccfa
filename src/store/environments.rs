//! Environments of organizations.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    due::{Due, due},
    parse,
};
use crate::{
    error::{Error, Result},
    model::{EnvState, EnvType, OrgSlug},
    nkey::{Account, PublicKey},
};

const DUE: Due = due!("environments", "");

/// An environment.
#[derive(Clone, Debug)]
pub struct EnvironmentRow {
    /// Identifier.
    pub id: Uuid,
    /// Type.
    pub env_type: EnvType,
    /// State.
    pub state: EnvState,
    /// Why making its stream and bucket failed last.
    pub error: Option<String>,
}

/// An environment whose stream and bucket are to be made or removed.
#[derive(Clone, Debug)]
pub struct DueEnvironment {
    /// Identifier.
    pub id: Uuid,
    /// Organization.
    pub org: OrgSlug,
    /// Name of its plan.
    pub plan: String,
    /// Its account.
    pub account: PublicKey<Account>,
    /// Type.
    pub env_type: EnvType,
    /// `Pending` or `Deleting`.
    pub state: EnvState,
    /// Attempts so far, with this one.
    pub attempts: i32,
}

fn from_row(row: &PgRow) -> Result<EnvironmentRow> {
    Ok(EnvironmentRow {
        id: row.try_get("id")?,
        env_type: parse(row.try_get("env_type")?)?,
        state: state(row)?,
        error: row.try_get("error")?,
    })
}

fn state(row: &PgRow) -> Result<EnvState> {
    EnvState::parse(row.try_get("state")?).ok_or_else(|| Error::internal("unknown environment state"))
}

/// Keeps a new environment, due at once.
pub async fn insert(
    connection: &mut PgConnection,
    org: Uuid,
    id: Uuid,
    env_type: &EnvType,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO environments (id, organization_id, env_type, state, due_at, created_at) VALUES ($1, $2, $3, 'pending', $4, $4)",
    )
    .bind(id)
    .bind(org)
    .bind(env_type.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// The environments of an organization that are not deleted.
pub async fn of(connection: &mut PgConnection, org: Uuid) -> Result<Vec<EnvironmentRow>> {
    let rows = sqlx::query(
        "SELECT id, env_type, state, error FROM environments WHERE organization_id = $1 AND state <> 'deleted' ORDER BY created_at, env_type",
    )
    .bind(org)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Starts the deletion of an environment.
pub async fn start_deletion(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    DUE.start_deletion(connection, id, now).await
}

/// Nothing more is to be done for the environments of an organization whose account goes.
pub async fn abandon(connection: &mut PgConnection, org: Uuid) -> Result<()> {
    sqlx::query("UPDATE environments SET state = 'deleted', due_at = NULL WHERE organization_id = $1")
        .bind(org)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// The environments of these organizations that are not deleted.
    pub async fn environments(&self, orgs: &[Uuid]) -> Result<HashMap<Uuid, Vec<EnvironmentRow>>> {
        let rows = sqlx::query(
            "SELECT organization_id, id, env_type, state, error FROM environments
             WHERE organization_id = ANY($1) AND state <> 'deleted' ORDER BY created_at, env_type",
        )
        .bind(orgs)
        .fetch_all(self.pool())
        .await?;
        let mut found: HashMap<Uuid, Vec<EnvironmentRow>> = HashMap::new();
        for row in &rows {
            found.entry(row.try_get("organization_id")?).or_default().push(from_row(row)?);
        }
        Ok(found)
    }

    /// Takes up to `limit` due environments of active organizations, whose account some server has, for
    /// `lease` seconds.
    pub async fn claim_due_environments(
        &self,
        limit: i64,
        lease: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<DueEnvironment>> {
        let rows = sqlx::query(
            "UPDATE environments e SET due_at = $3 + make_interval(secs => $2), attempts = e.attempts + 1
             FROM (SELECT e.id, o.slug, o.plan, o.account_key FROM environments e JOIN organizations o ON o.id = e.organization_id
                   JOIN accounts a ON a.account_key = o.account_key
                   WHERE e.due_at <= $3 AND o.state = 'active' AND EXISTS (
                       SELECT 1 FROM account_servers s WHERE s.account_key = a.account_key AND s.stored >= a.generation)
                   ORDER BY e.due_at LIMIT $1 FOR UPDATE OF e SKIP LOCKED) AS due
             WHERE e.id = due.id
             RETURNING e.id, due.slug, due.plan, due.account_key, e.env_type, e.state, e.attempts",
        )
        .bind(limit)
        .bind(f64::from(i32::try_from(lease).unwrap_or(i32::MAX)))
        .bind(now)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DueEnvironment {
                    id: row.try_get("id")?,
                    org: parse(row.try_get("slug")?)?,
                    plan: row.try_get("plan")?,
                    account: parse(row.try_get("account_key")?)?,
                    env_type: parse(row.try_get("env_type")?)?,
                    state: state(row)?,
                    attempts: row.try_get("attempts")?,
                })
            })
            .collect()
    }

    /// Stream and bucket are as `worked_on` wanted them. False: something else is wanted meanwhile.
    pub async fn environment_done(&self, id: Uuid, worked_on: EnvState) -> Result<bool> {
        DUE.done(self, id, worked_on.as_str()).await
    }

    /// The attempt failed with these words; look again at `again_at`. Nothing happens when something else is
    /// wanted meanwhile.
    pub async fn environment_failed(
        &self,
        id: Uuid,
        worked_on: EnvState,
        error: &str,
        again_at: DateTime<Utc>,
    ) -> Result<()> {
        DUE.failed(self, id, worked_on.as_str(), error, again_at).await
    }
}
