//! Rotations of account signing keys. Which step comes next is decided in `authority`; that none is
//! skipped is held by triggers in `migrations/`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    accounts::AccountServer,
    page::{Page, cut},
    parse, violates,
};
use crate::{
    error::{Error, Result},
    model::{KeyRotation, RotationState},
    nkey::{Account, PublicKey},
};

/// A query for rotations with what belongs to them; sqlx takes only text that is known when it is compiled.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT r.*, o.slug, o.account_key, k.environment_id, k.role, e.env_type,
                 o.state IN ('deleting', 'deleted') OR COALESCE(e.state IN ('deleting', 'deleted'), false) AS pointless
             FROM key_rotations r JOIN organizations o ON o.id = r.organization_id
             JOIN signing_keys k ON k.public_key = r.old_key LEFT JOIN environments e ON e.id = k.environment_id ",
            $rest
        )
    };
}

/// A rotation to be proposed.
#[derive(Clone, Debug)]
pub struct NewKeyRotation<'a> {
    /// Identifier.
    pub id: Uuid,
    /// The organization.
    pub organization: Uuid,
    /// What is to be replaced.
    pub old_key: &'a str,
    /// The old key is to leave at once.
    pub immediately: bool,
    /// It leaves at the end of the grace time whoever uses it.
    pub force: bool,
    /// Seconds.
    pub grace_seconds: i64,
    /// Why.
    pub reason: Option<&'a str>,
    /// Who asks.
    pub requested_by: &'a str,
    /// When.
    pub at: DateTime<Utc>,
}

/// Which rotations to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this organization.
    pub organization: Option<Uuid>,
    /// In this state.
    pub state: Option<RotationState>,
    /// Only those that are not over.
    pub open: bool,
}

/// Credentials under a signing key that servers still accept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Under {
    /// How many.
    pub count: i64,
    /// When the last one ends.
    pub last_end: Option<DateTime<Utc>>,
}

/// Writes a proposed rotation.
pub async fn insert(connection: &mut PgConnection, new: &NewKeyRotation<'_>) -> Result<()> {
    sqlx::query(
        "INSERT INTO key_rotations (id, organization_id, old_key, state, immediately, force, grace_seconds, reason,
             requested_by, requested_at) VALUES ($1, $2, $3, 'proposed', $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id)
    .bind(new.organization)
    .bind(new.old_key)
    .bind(new.immediately)
    .bind(new.force)
    .bind(new.grace_seconds)
    .bind(new.reason)
    .bind(new.requested_by)
    .bind(new.at)
    .execute(connection)
    .await
    .map_err(|error| if violates(&error, "key_rotations_open") { is_open() } else { error.into() })?;
    Ok(())
}

/// The key already has a rotation that is not over.
pub fn is_open() -> Error {
    Error::conflict(
        "key-rotation-open",
        "this key is being rotated already; look at it with `nats-authority key list`, cancel or hasten that rotation",
    )
}

/// The key has a rotation that is not over.
pub async fn has_open(connection: &mut PgConnection, key: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM key_rotations WHERE old_key = $1 AND state NOT IN ('done', 'cancelled'))";
    Ok(sqlx::query_scalar(sql).bind(key).fetch_one(connection).await?)
}

/// Whose rotation it is.
pub async fn organization_of(connection: &mut PgConnection, id: Uuid) -> Result<Option<Uuid>> {
    let sql = "SELECT organization_id FROM key_rotations WHERE id = $1 AND organization_id IS NOT NULL";
    Ok(sqlx::query_scalar(sql).bind(id).fetch_optional(connection).await?)
}

/// Locks a rotation until the end of the transaction. Whoever changes one has locked its organization
/// before.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Option<KeyRotation>> {
    let row = sqlx::query(select!("WHERE r.id = $1 FOR UPDATE OF r")).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Writes what may change of a rotation; a trigger refuses skipped steps.
pub async fn update(connection: &mut PgConnection, rotation: &KeyRotation) -> Result<()> {
    sqlx::query(
        "UPDATE key_rotations SET state = $2, new_key = $3, immediately = $4, force = $5, approved_by = $6, approved_at = $7,
             generation = $8, activated_at = $9, retire_after = $10, removed_at = $11, ended_at = $12, ended_because = $13
         WHERE id = $1",
    )
    .bind(rotation.id)
    .bind(rotation.state.name())
    .bind(rotation.new_key.map(|key| key.to_string()))
    .bind(rotation.immediately)
    .bind(rotation.force)
    .bind(&rotation.approved_by)
    .bind(rotation.approved_at)
    .bind(rotation.generation)
    .bind(rotation.activated_at)
    .bind(rotation.retire_after)
    .bind(rotation.removed_at)
    .bind(rotation.ended_at)
    .bind(&rotation.ended_because)
    .execute(connection)
    .await?;
    Ok(())
}

/// What each server has of an account.
pub async fn servers_of(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<Vec<AccountServer>> {
    let rows = sqlx::query(
        "SELECT server, server_id, stored, effective, error FROM account_servers WHERE account_key = $1 ORDER BY server",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AccountServer {
                account,
                server: row.try_get("server")?,
                server_id: row.try_get("server_id")?,
                stored: row.try_get("stored")?,
                effective: row.try_get("effective")?,
                error: row.try_get("error")?,
            })
        })
        .collect()
}

/// The credentials under each of these keys that servers still accept; keys without any are left out. One
/// that was renewed does not count: its user has a younger one for the same key pair.
pub async fn under(
    connection: &mut PgConnection,
    keys: &[String],
    now: DateTime<Utc>,
) -> Result<HashMap<String, Under>> {
    let rows = sqlx::query(
        "SELECT issuer_key, count(*) AS count, max(LEAST(expires_at, ends_at)) AS last_end FROM credentials
         WHERE issuer_key = ANY($1) AND revoked_at IS NULL AND NOT renewed AND expires_at > $2 GROUP BY issuer_key",
    )
    .bind(keys)
    .bind(now)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let under = Under { count: row.try_get("count")?, last_end: row.try_get("last_end")? };
            Ok((row.try_get("issuer_key")?, under))
        })
        .collect()
}

/// Whether there are any such credentials under a key: counts one, if there is one. For whoever asks every second.
pub async fn any_under(connection: &mut PgConnection, key: &str, now: DateTime<Utc>) -> Result<Under> {
    // What ends last was issued last: few of those are renewed already.
    let last_end: Option<DateTime<Utc>> = sqlx::query_scalar(
        "SELECT LEAST(expires_at, ends_at) FROM credentials
         WHERE issuer_key = $1 AND revoked_at IS NULL AND NOT renewed AND expires_at > $2
         ORDER BY expires_at DESC LIMIT 1",
    )
    .bind(key)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    Ok(Under { count: i64::from(last_end.is_some()), last_end })
}

/// Marks the credentials under a key revoked that servers still accept: the key has left the account,
/// and nobody who was signed with it is let in. Returns how many. One that was renewed stays superseded:
/// revocations name the user's key, and that is its successor's too.
pub async fn revoke_under(
    connection: &mut PgConnection,
    key: PublicKey<Account>,
    at: DateTime<Utc>,
    reason: &str,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE credentials SET revoked_at = GREATEST($2, issued_at), revocation_reason = $3
         WHERE issuer_key = $1 AND revoked_at IS NULL AND NOT renewed AND expires_at > $2",
    )
    .bind(key.to_string())
    .bind(at)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

impl Store {
    /// One rotation.
    pub async fn key_rotation(&self, id: Uuid) -> Result<Option<KeyRotation>> {
        let row = sqlx::query(select!("WHERE r.id = $1")).bind(id).fetch_optional(self.pool()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Lists rotations, the newest first.
    pub async fn key_rotations(&self, filter: &Filter, page: &Page<Uuid>) -> Result<(Vec<KeyRotation>, bool)> {
        let rows = sqlx::query(select!(
            "WHERE ($1::uuid IS NULL OR r.organization_id = $1) AND ($2::text IS NULL OR r.state = $2)
             AND (NOT $3 OR r.state NOT IN ('done', 'cancelled')) AND ($4::uuid IS NULL OR r.id < $4)
             ORDER BY r.id DESC LIMIT $5"
        ))
        .bind(filter.organization)
        .bind(filter.state.map(RotationState::name))
        .bind(filter.open)
        .bind(page.after)
        .bind(page.limit + 1)
        .fetch_all(self.pool())
        .await?;
        let (rows, more) = cut(rows, page.limit);
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, more))
    }

    /// The rotations that may have a step to make.
    pub async fn moving_key_rotations(&self) -> Result<Vec<KeyRotation>> {
        // A proposed one whose organization is gone is given up.
        let rows = sqlx::query(select!(
            "WHERE r.state IN ('pending', 'retiring', 'removing')
             OR (r.state = 'proposed' AND (o.state IN ('deleting', 'deleted') OR e.state IN ('deleting', 'deleted')))
             ORDER BY r.id"
        ))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(from_row).collect()
    }

    /// A connection for several reads.
    pub async fn connection(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
        Ok(self.pool().acquire().await?)
    }
}

fn from_row(row: &PgRow) -> Result<KeyRotation> {
    let state: &str = row.try_get("state")?;
    let new_key: Option<&str> = row.try_get("new_key")?;
    let env_type: Option<&str> = row.try_get("env_type")?;
    Ok(KeyRotation {
        id: row.try_get("id")?,
        organization: row.try_get("organization_id")?,
        org: parse(row.try_get("slug")?)?,
        account: parse(row.try_get("account_key")?)?,
        environment: row.try_get("environment_id")?,
        env_type: env_type.map(parse).transpose()?,
        role: row.try_get("role")?,
        old_key: parse(row.try_get("old_key")?)?,
        new_key: new_key.map(parse).transpose()?,
        state: RotationState::parse(state).ok_or_else(|| Error::internal("unknown state of a key rotation"))?,
        immediately: row.try_get("immediately")?,
        force: row.try_get("force")?,
        grace_seconds: row.try_get("grace_seconds")?,
        reason: row.try_get("reason")?,
        requested_by: row.try_get("requested_by")?,
        requested_at: row.try_get("requested_at")?,
        approved_by: row.try_get("approved_by")?,
        approved_at: row.try_get("approved_at")?,
        generation: row.try_get("generation")?,
        activated_at: row.try_get("activated_at")?,
        retire_after: row.try_get("retire_after")?,
        removed_at: row.try_get("removed_at")?,
        ended_at: row.try_get("ended_at")?,
        ended_because: row.try_get("ended_because")?,
        pointless: row.try_get("pointless")?,
    })
}
