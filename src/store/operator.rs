//! The operator's row: adopted once, from a bundle; its JWT is replaced when its signing key is.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Store, parse};
use crate::{
    error::{Error, Result},
    nkey::{Account, Operator, PublicKey},
    signer::SealedKey,
};

/// The operator of this deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// Public key of its identity.
    pub public_key: PublicKey<Operator>,
    /// For people.
    pub name: String,
    /// The operator JWT.
    pub jwt: String,
    /// The system account.
    pub system_account: PublicKey<Account>,
    /// When this database took it.
    pub adopted_at: DateTime<Utc>,
}

impl Store {
    /// The operator, if one was adopted.
    pub async fn operator(&self) -> Result<Option<OperatorRow>> {
        let row = sqlx::query("SELECT public_key, name, jwt, system_account, adopted_at FROM operators")
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(from_row).transpose()
    }
}

/// Locks the operator until the end of the transaction: its JWT and the rotation of its key change under it.
pub async fn lock(connection: &mut PgConnection) -> Result<OperatorRow> {
    let row = sqlx::query("SELECT public_key, name, jwt, system_account, adopted_at FROM operators FOR UPDATE")
        .fetch_one(connection)
        .await?;
    from_row(&row)
}

/// The operator, as this transaction sees it.
pub async fn look(connection: &mut PgConnection) -> Result<OperatorRow> {
    let row = sqlx::query("SELECT public_key, name, jwt, system_account, adopted_at FROM operators")
        .fetch_one(connection)
        .await?;
    from_row(&row)
}

/// The key that signs accounts now. It stays that key until the end of the transaction.
pub async fn signing_key(connection: &mut PgConnection) -> Result<SealedKey<Operator>> {
    let row = sqlx::query("SELECT public_key, sealed_seed FROM operator_key()")
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| Error::internal("the operator has no signing key"))?;
    Ok(SealedKey { public: parse(row.try_get("public_key")?)?, sealed: row.try_get("sealed_seed")? })
}

/// Replaces the operator JWT. A trigger refuses one that does not list what signs accounts.
pub async fn set_jwt(connection: &mut PgConnection, jwt: &str) -> Result<()> {
    sqlx::query("UPDATE operators SET jwt = $1").bind(jwt).execute(connection).await?;
    Ok(())
}

fn from_row(row: &PgRow) -> Result<OperatorRow> {
    Ok(OperatorRow {
        public_key: parse(row.try_get("public_key")?)?,
        name: row.try_get("name")?,
        jwt: row.try_get("jwt")?,
        system_account: parse(row.try_get("system_account")?)?,
        adopted_at: row.try_get("adopted_at")?,
    })
}

/// Adopts an operator; returns whether this transaction did it (another replica may have).
pub async fn adopt(connection: &mut PgConnection, operator: &OperatorRow) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO operators (public_key, name, jwt, system_account, adopted_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (singleton) DO NOTHING",
    )
    .bind(operator.public_key.to_string())
    .bind(&operator.name)
    .bind(&operator.jwt)
    .bind(operator.system_account.to_string())
    .bind(operator.adopted_at)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
