//! Rotations of the operator's signing key, and how far accounts and servers have followed. They lie in the
//! table of the accounts' rotations, without an organization; triggers hold that no step is skipped.

use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    accounts::AccountRow,
    digest, key_rotations,
    page::{Page, cut},
    parse, violates,
};
use crate::{
    error::{Error, Result},
    model::{OperatorRotation, RotationState},
    nkey::{Account, Operator, PublicKey},
};

/// An account that is to be signed with another key.
#[derive(Clone, Debug)]
pub struct Unsigned {
    /// The account.
    pub account: PublicKey<Account>,
    /// Its present JWT.
    pub jwt: String,
    /// Its row, locked.
    pub row: AccountRow,
}

/// Writes a proposed rotation.
pub async fn insert(connection: &mut PgConnection, rotation: &OperatorRotation) -> Result<()> {
    sqlx::query(
        "INSERT INTO key_rotations (id, old_key, state, immediately, force, grace_seconds, reason, requested_by, requested_at)
         VALUES ($1, $2, 'proposed', false, false, 0, $3, $4, $5)",
    )
    .bind(rotation.id)
    .bind(rotation.old_key.to_string())
    .bind(&rotation.reason)
    .bind(&rotation.requested_by)
    .bind(rotation.requested_at)
    .execute(connection)
    .await
    .map_err(|error| if violates(&error, "key_rotations_open") { key_rotations::is_open() } else { error.into() })?;
    Ok(())
}

/// The rotation that is not over, locked until the end of the transaction. Whoever changes one has locked the
/// operator before.
pub async fn open(connection: &mut PgConnection) -> Result<Option<OperatorRotation>> {
    let row = sqlx::query(
        "SELECT * FROM key_rotations WHERE organization_id IS NULL AND state NOT IN ('done', 'cancelled') FOR UPDATE",
    )
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(from_row).transpose()
}

/// The same without a lock.
pub async fn look(connection: &mut PgConnection) -> Result<Option<OperatorRotation>> {
    let row =
        sqlx::query("SELECT * FROM key_rotations WHERE organization_id IS NULL AND state NOT IN ('done', 'cancelled')")
            .fetch_optional(connection)
            .await?;
    row.as_ref().map(from_row).transpose()
}

/// Writes what may change of a rotation.
pub async fn update(connection: &mut PgConnection, rotation: &OperatorRotation) -> Result<()> {
    sqlx::query(
        "UPDATE key_rotations SET state = $2, new_key = $3, approved_by = $4, approved_at = $5, activated_at = $6,
             retire_after = $6, removed_at = $7, ended_at = $8, ended_because = $9 WHERE id = $1",
    )
    .bind(rotation.id)
    .bind(rotation.state.name())
    .bind(rotation.new_key.map(|key| key.to_string()))
    .bind(&rotation.approved_by)
    .bind(rotation.approved_at)
    .bind(rotation.activated_at)
    .bind(rotation.removed_at)
    .bind(rotation.ended_at)
    .bind(&rotation.ended_because)
    .execute(connection)
    .await?;
    Ok(())
}

/// How many accounts are signed by another key than this one.
pub async fn unsigned(connection: &mut PgConnection, key: PublicKey<Operator>) -> Result<i64> {
    let sql =
        "SELECT count(*) FROM accounts WHERE state <> 'deleted' AND jwt IS NOT NULL AND signed_by IS DISTINCT FROM $1";
    Ok(sqlx::query_scalar(sql).bind(key.to_string()).fetch_one(connection).await?)
}

/// Locks up to `limit` accounts, by key and behind `after`, that are signed by another key than this one and that
/// nobody changes just now.
pub async fn take_unsigned(
    connection: &mut PgConnection,
    key: PublicKey<Operator>,
    after: Option<PublicKey<Account>>,
    limit: i64,
) -> Result<Vec<Unsigned>> {
    let rows = sqlx::query(
        "SELECT account_key, jwt, generation, iat, content_hash FROM accounts
         WHERE state <> 'deleted' AND jwt IS NOT NULL AND signed_by IS DISTINCT FROM $1
           AND ($2::text IS NULL OR account_key > $2)
         ORDER BY account_key LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
    )
    .bind(key.to_string())
    .bind(after.map(|account| account.to_string()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let hash: Option<Vec<u8>> = row.try_get("content_hash")?;
            Ok(Unsigned {
                account: parse(row.try_get("account_key")?)?,
                jwt: row.try_get("jwt")?,
                row: AccountRow {
                    generation: row.try_get("generation")?,
                    iat: row.try_get("iat")?,
                    content_hash: hash.as_deref().map(digest).transpose()?,
                    policies: None,
                    signed_by: None,
                },
            })
        })
        .collect()
}

/// Those of these servers, by name and id, that may have some account under a key that it was signed by before
/// its present one: stored, or running. Accounts that were never signed by another one do not count.
pub async fn lagging(connection: &mut PgConnection, servers: &[(String, String)]) -> Result<Vec<String>> {
    let (names, ids): (Vec<_>, Vec<_>) = servers.iter().cloned().unzip();
    Ok(sqlx::query_scalar(
        "SELECT s.name FROM UNNEST($1::text[], $2::text[]) AS s(name, id)
         WHERE EXISTS (
             SELECT FROM accounts a WHERE a.state <> 'deleted' AND a.signed_since > 1 AND NOT EXISTS (
                 SELECT FROM account_servers h
                 WHERE h.account_key = a.account_key AND h.server = s.name AND h.server_id = s.id
                   AND h.stored >= a.signed_since
                   AND (h.effective >= a.signed_since OR (h.effective IS NULL AND h.error IS NULL))))
         ORDER BY s.name",
    )
    .bind(names)
    .bind(ids)
    .fetch_all(connection)
    .await?)
}

impl Store {
    /// One rotation.
    pub async fn operator_rotation(&self, id: Uuid) -> Result<Option<OperatorRotation>> {
        let row = sqlx::query("SELECT * FROM key_rotations WHERE organization_id IS NULL AND id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Lists rotations, the newest first.
    pub async fn operator_rotations(&self, page: &Page<Uuid>) -> Result<(Vec<OperatorRotation>, bool)> {
        let rows = sqlx::query(
            "SELECT * FROM key_rotations WHERE organization_id IS NULL AND ($1::uuid IS NULL OR id < $1)
             ORDER BY id DESC LIMIT $2",
        )
        .bind(page.after)
        .bind(page.limit + 1)
        .fetch_all(self.pool())
        .await?;
        let (rows, more) = cut(rows, page.limit);
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, more))
    }
}

fn from_row(row: &PgRow) -> Result<OperatorRotation> {
    let state: &str = row.try_get("state")?;
    let new_key: Option<&str> = row.try_get("new_key")?;
    Ok(OperatorRotation {
        id: row.try_get("id")?,
        old_key: parse(row.try_get("old_key")?)?,
        new_key: new_key.map(parse).transpose()?,
        state: RotationState::parse(state).ok_or_else(|| Error::internal("unknown state of a key rotation"))?,
        reason: row.try_get("reason")?,
        requested_by: row.try_get("requested_by")?,
        requested_at: row.try_get("requested_at")?,
        approved_by: row.try_get("approved_by")?,
        approved_at: row.try_get("approved_at")?,
        activated_at: row.try_get("activated_at")?,
        removed_at: row.try_get("removed_at")?,
        ended_at: row.try_get("ended_at")?,
        ended_because: row.try_get("ended_because")?,
    })
}
