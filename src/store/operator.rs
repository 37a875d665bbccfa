//! The operator's row: adopted once, from a bundle.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};

use super::{Store, parse};
use crate::{
    error::Result,
    nkey::{Account, Operator, PublicKey},
};

/// The operator of this deployment.
#[derive(Clone, Debug)]
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
        row.map(|row| {
            Ok(OperatorRow {
                public_key: parse(row.try_get("public_key")?)?,
                name: row.try_get("name")?,
                jwt: row.try_get("jwt")?,
                system_account: parse(row.try_get("system_account")?)?,
                adopted_at: row.try_get("adopted_at")?,
            })
        })
        .transpose()
    }
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
