//! Accounts whose clients are to be looked at, because they were minted again.

use sqlx::Row;

use super::{Store, parse};
use crate::{
    error::Result,
    model::{OrgSlug, OrgState},
    nkey::{Account, PublicKey},
};

/// An account that every server has, and whose clients nobody has looked at since.
#[derive(Clone, Debug)]
pub struct ChangedAccount {
    /// The account.
    pub account: PublicKey<Account>,
    /// Its generation.
    pub generation: i64,
    /// Its organization.
    pub org: OrgSlug,
    /// Whether anybody may be connected at all.
    pub open: bool,
}

impl Store {
    /// Up to `limit` of them.
    pub async fn changed_accounts(&self, limit: i64) -> Result<Vec<ChangedAccount>> {
        let rows = sqlx::query(
            "SELECT a.account_key, a.generation, o.slug, o.state FROM accounts a
             JOIN organizations o ON o.account_key = a.account_key
             WHERE a.look_at_clients AND o.state <> 'deleted'
               AND NOT EXISTS (SELECT FROM account_pushes p WHERE p.account_key = a.account_key) LIMIT $1",
        )
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ChangedAccount {
                    account: parse(row.try_get("account_key")?)?,
                    generation: row.try_get("generation")?,
                    org: parse(row.try_get("slug")?)?,
                    open: OrgState::parse(row.try_get("state")?) == Some(OrgState::Active),
                })
            })
            .collect()
    }

    /// Its clients were looked at; not so when it was minted again meanwhile.
    pub async fn clients_were_looked_at(&self, changed: &ChangedAccount) -> Result<()> {
        sqlx::query("UPDATE accounts SET look_at_clients = false WHERE account_key = $1 AND generation = $2")
            .bind(changed.account.to_string())
            .bind(changed.generation)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
