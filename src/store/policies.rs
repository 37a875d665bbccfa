//! Which plans and roles are in force, and which accounts were composed with other ones.

use sqlx::PgConnection;

use super::{Store, parse};
use crate::{
    error::Result,
    model::OrgSlug,
    nkey::{Account, PublicKey},
};

/// SHA-256 of the files of plans and roles.
pub type Fingerprint = [u8; 32];

/// Which accounts were composed with other plans and roles than those of `$1`. In the terms of the index
/// `accounts_policies`: `IS DISTINCT FROM` could not use it.
macro_rules! otherwise {
    () => {
        "FROM organizations o JOIN accounts a ON a.account_key = o.account_key
         WHERE o.state IN ('active', 'suspended') AND a.kind = 'organization' AND a.state = 'live'
         AND (a.policies < $1 OR a.policies > $1 OR a.policies IS NULL)"
    };
}

/// Counts them.
pub const COUNT_COMPOSED_OTHERWISE: &str = concat!("SELECT count(*) ", otherwise!());

/// Notes with which plans and roles an account was composed.
pub async fn composed_with(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
    fingerprint: &Fingerprint,
) -> Result<()> {
    sqlx::query("UPDATE accounts SET policies = $2 WHERE account_key = $1 AND policies IS DISTINCT FROM $2")
        .bind(account.to_string())
        .bind(&fingerprint[..])
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Puts plans and roles in force; false: they are already. The first ones of a ledger change nothing for
    /// anybody and are no event.
    pub async fn put_in_force(&self, fingerprint: &Fingerprint, event: &super::audit::Event) -> Result<bool> {
        let mut tx = self.begin().await?;
        let first: Option<bool> = sqlx::query_scalar(
            "INSERT INTO policies_in_force (fingerprint, since) VALUES ($1, $2)
             ON CONFLICT (singleton) DO UPDATE SET fingerprint = excluded.fingerprint, since = excluded.since
             WHERE policies_in_force.fingerprint <> excluded.fingerprint
             RETURNING xmax = 0",
        )
        .bind(&fingerprint[..])
        .bind(event.at)
        .fetch_optional(&mut *tx)
        .await?;
        match first {
            None => return Ok(false),
            Some(true) => {}
            Some(false) => super::audit::record(&mut tx, event).await?,
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Notes which access policy was loaded last; the event is recorded if that is another one than before.
    /// `first` says whether the first one of a ledger is an event too.
    pub async fn put_access_in_force(
        &self,
        fingerprint: &Fingerprint,
        first: bool,
        event: &super::audit::Event,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let earlier: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT access FROM policies_in_force FOR UPDATE").fetch_optional(&mut *tx).await?;
        let earlier = earlier.flatten();
        if earlier.as_deref() == Some(&fingerprint[..]) {
            return Ok(());
        }
        sqlx::query("UPDATE policies_in_force SET access = $1").bind(&fingerprint[..]).execute(&mut *tx).await?;
        if earlier.is_some() || first {
            super::audit::record(&mut tx, event).await?;
        }
        Ok(tx.commit().await?)
    }

    /// These are the plans and roles that were loaded last by any replica.
    pub async fn are_in_force(&self, fingerprint: &Fingerprint) -> Result<bool> {
        let found: Option<bool> = sqlx::query_scalar("SELECT fingerprint = $1 FROM policies_in_force")
            .bind(&fingerprint[..])
            .fetch_optional(self.pool())
            .await?;
        Ok(found.unwrap_or(false))
    }

    /// Organizations whose accounts were composed with other plans and roles, by slug, behind `after`.
    pub async fn composed_otherwise(
        &self,
        fingerprint: &Fingerprint,
        after: Option<&OrgSlug>,
        limit: i64,
    ) -> Result<Vec<OrgSlug>> {
        let slugs: Vec<String> = sqlx::query_scalar(concat!(
            "SELECT o.slug ",
            otherwise!(),
            " AND ($2::text IS NULL OR o.slug > $2) ORDER BY o.slug LIMIT $3"
        ))
        .bind(&fingerprint[..])
        .bind(after.map(OrgSlug::as_str))
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        slugs.iter().map(|slug| parse(slug)).collect()
    }

    /// How many organizations that is.
    pub async fn count_composed_otherwise(&self, fingerprint: &Fingerprint) -> Result<i64> {
        Ok(sqlx::query_scalar(COUNT_COMPOSED_OTHERWISE).bind(&fingerprint[..]).fetch_one(self.pool()).await?)
    }

    /// The plans of organizations that are not deleted or being deleted.
    pub async fn plans_in_use(&self) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT plan FROM organizations WHERE state IN ('active', 'suspended') ORDER BY plan";
        Ok(sqlx::query_scalar(sql).fetch_all(self.pool()).await?)
    }
}
