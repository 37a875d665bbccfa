//! API tokens: hashes only.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::Store;
use crate::{error::Result, model::CallerRole};

/// A token to be kept.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Identifier.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
    /// What its bearer is.
    pub role: CallerRole,
}

/// The bearer of a token.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The token's identifier.
    pub id: Uuid,
    /// The token's name.
    pub name: String,
    /// What it is.
    pub role: CallerRole,
}

/// Keeps a token's hash.
pub async fn insert(connection: &mut PgConnection, token: &NewToken, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("INSERT INTO api_tokens (id, name, token_sha256, role, created_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(token.id)
        .bind(&token.name)
        .bind(&token.sha256[..])
        .bind(token.role.as_str())
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// The bearer of the token with this hash, while it is valid.
    pub async fn bearer(&self, sha256: &[u8; 32], now: DateTime<Utc>) -> Result<Option<Bearer>> {
        let row = sqlx::query(
            "SELECT id, name, role FROM api_tokens
             WHERE token_sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(&sha256[..])
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| {
            Ok(Bearer { id: row.try_get("id")?, name: row.try_get("name")?, role: super::parse(row.try_get("role")?)? })
        })
        .transpose()
    }
}
