//! The platform account's row, and the organizations whose accounts are older than it.

use sqlx::{PgConnection, Row};

use super::{Store, parse};
use crate::{
    error::Result,
    model::OrgSlug,
    nkey::{Account, PublicKey},
};

/// Lets one replica at a time look for the platform account and make it: locks the operator's row until the
/// end of the transaction.
pub async fn lock(connection: &mut PgConnection) -> Result<Option<PublicKey<Account>>> {
    sqlx::query("SELECT 1 FROM operators FOR UPDATE").execute(&mut *connection).await?;
    let key: Option<String> = sqlx::query_scalar("SELECT account_key FROM accounts WHERE kind = 'platform'")
        .fetch_optional(connection)
        .await?;
    key.as_deref().map(parse).transpose()
}

impl Store {
    /// Every server that was asked last has the platform account.
    pub async fn platform_is_settled(&self) -> Result<bool> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM accounts a JOIN account_servers s ON s.account_key = a.account_key
                 AND s.stored = a.generation AND s.error IS NULL
             WHERE a.kind = 'platform' AND NOT EXISTS (SELECT FROM account_pushes p WHERE p.account_key = a.account_key))",
        )
        .fetch_one(self.pool())
        .await?)
    }

    /// Up to `limit` organizations, by slug and behind `after`, whose accounts were minted before there was a
    /// platform account. Those that are not active import nothing.
    pub async fn older_than_platform(&self, after: Option<&OrgSlug>, limit: i64) -> Result<Vec<OrgSlug>> {
        let rows = sqlx::query(
            "SELECT o.slug FROM organizations o
             JOIN accounts a ON a.account_key = o.account_key AND a.state = 'live'
             JOIN account_generations g ON g.account_key = a.account_key AND g.generation = a.generation
             WHERE o.state = 'active' AND ($1::text IS NULL OR o.slug > $1)
               AND g.minted_at < (SELECT created_at FROM accounts WHERE kind = 'platform')
             ORDER BY o.slug LIMIT $2",
        )
        .bind(after.map(OrgSlug::as_str))
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| parse(row.try_get("slug")?)).collect()
    }
}
