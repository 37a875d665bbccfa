//! Organizations and the sum of what their plans promise.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    page::{Page, cut},
    parse,
};
use crate::{
    error::{Error, Result},
    model::{OrgSlug, OrgState, Organization},
};

/// Bytes of the cluster, all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// In memory.
    pub memory: i64,
    /// On disk.
    pub disk: i64,
}

fn from_row(row: &PgRow) -> Result<Organization> {
    let state: &str = row.try_get("state")?;
    Ok(Organization {
        id: row.try_get("id")?,
        slug: parse(row.try_get("slug")?)?,
        display_name: row.try_get("display_name")?,
        plan: row.try_get("plan")?,
        limits: row.try_get("limits")?,
        allow_organization_reach: row.try_get("allow_organization_reach")?,
        state: OrgState::parse(state).ok_or_else(|| Error::internal("unknown organization state"))?,
        account: parse(row.try_get("account_key")?)?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

/// Keeps a new organization; false: another one has the slug.
pub async fn insert(connection: &mut PgConnection, org: &Organization, promise: Bytes) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO organizations (id, slug, display_name, plan, limits, state, account_key, promised_memory,
             promised_disk, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
         ON CONFLICT (slug) WHERE state <> 'deleted' DO NOTHING",
    )
    .bind(org.id)
    .bind(org.slug.as_str())
    .bind(&org.display_name)
    .bind(&org.plan)
    .bind(&org.limits)
    .bind(org.state.as_str())
    .bind(org.account.to_string())
    .bind(promise.memory)
    .bind(promise.disk)
    .bind(org.created_at)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks the organization of this slug until the end of the transaction.
pub async fn lock(connection: &mut PgConnection, slug: &OrgSlug) -> Result<Option<Organization>> {
    let sql = "SELECT id, slug, display_name, plan, limits, allow_organization_reach, state, account_key, created_at, updated_at
               FROM organizations WHERE slug = $1 AND state <> 'deleted' FOR UPDATE";
    let row = sqlx::query(sql).bind(slug.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Locks an organization, in whatever state, until the end of the transaction.
pub async fn lock_id(connection: &mut PgConnection, id: Uuid) -> Result<Organization> {
    let sql = "SELECT id, slug, display_name, plan, limits, allow_organization_reach, state, account_key, created_at, updated_at
               FROM organizations WHERE id = $1 FOR UPDATE";
    from_row(&sqlx::query(sql).bind(id).fetch_one(connection).await?)
}

/// Locks one organization that has superseded credentials whose grace time has passed, and that is not
/// in `except`. The organization is what is claimed, for whoever revokes locks it first: locking its
/// credentials before it could wait for each other. One that is locked is somebody else's now.
pub async fn claim_with_ended(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    except: &[Uuid],
) -> Result<Option<Organization>> {
    // What is being deleted lets nobody in anyway. In the order of the index, so that it ends with the first one.
    let sql = "SELECT o.id, slug, display_name, plan, limits, allow_organization_reach, o.state, account_key, o.created_at, updated_at
               FROM credentials c JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
               WHERE c.superseded_at IS NOT NULL AND c.revoked_at IS NULL AND c.ends_at < c.expires_at AND c.ends_at <= $1
                   AND c.expires_at > $1 AND o.state IN ('active', 'suspended') AND o.id <> ALL($2)
               ORDER BY c.ends_at LIMIT 1 FOR UPDATE OF o SKIP LOCKED";
    let row = sqlx::query(sql).bind(now).bind(except).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Writes what may change of an organization.
pub async fn update(connection: &mut PgConnection, org: &Organization, promise: Bytes, purge: bool) -> Result<()> {
    sqlx::query(
        "UPDATE organizations SET display_name = $2, plan = $3, limits = $4, state = $5, promised_memory = $6,
             promised_disk = $7, updated_at = $8, purge = $9, allow_organization_reach = $10 WHERE id = $1",
    )
    .bind(org.id)
    .bind(&org.display_name)
    .bind(&org.plan)
    .bind(&org.limits)
    .bind(org.state.as_str())
    .bind(promise.memory)
    .bind(promise.disk)
    .bind(org.updated_at)
    .bind(purge)
    .bind(org.allow_organization_reach)
    .execute(connection)
    .await?;
    Ok(())
}

/// What the plan of one organization promises now.
pub async fn promise(connection: &mut PgConnection, id: Uuid) -> Result<Bytes> {
    let row = sqlx::query("SELECT promised_memory, promised_disk FROM organizations WHERE id = $1")
        .bind(id)
        .fetch_one(connection)
        .await?;
    Ok(Bytes { memory: row.try_get("promised_memory")?, disk: row.try_get("promised_disk")? })
}

/// Adds `change` to the sum of all promises and returns the new sum. Locks the sum until the end of
/// the transaction, so that two admissions cannot both take the last place.
pub async fn add_promise(connection: &mut PgConnection, change: Bytes) -> Result<Bytes> {
    let row = sqlx::query("UPDATE promises SET memory = memory + $1, disk = disk + $2 RETURNING memory, disk")
        .bind(change.memory)
        .bind(change.disk)
        .fetch_one(connection)
        .await?;
    Ok(Bytes { memory: row.try_get("memory")?, disk: row.try_get("disk")? })
}

impl Store {
    /// The sum of all promises.
    pub async fn promised(&self) -> Result<Bytes> {
        let row = sqlx::query("SELECT memory, disk FROM promises").fetch_one(self.pool()).await?;
        Ok(Bytes { memory: row.try_get("memory")?, disk: row.try_get("disk")? })
    }

    /// The organization of this slug that is not deleted.
    pub async fn organization(&self, slug: &OrgSlug) -> Result<Option<Organization>> {
        let row = sqlx::query(
            "SELECT id, slug, display_name, plan, limits, allow_organization_reach, state, account_key, created_at, updated_at
             FROM organizations WHERE slug = $1 AND state <> 'deleted'",
        )
        .bind(slug.as_str())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The latest organization of this slug, deleted or not.
    pub async fn organization_or_deleted(&self, slug: &OrgSlug) -> Result<Option<Organization>> {
        let row = sqlx::query(
            "SELECT id, slug, display_name, plan, limits, allow_organization_reach, state, account_key, created_at, updated_at
             FROM organizations WHERE slug = $1 ORDER BY (state <> 'deleted') DESC, created_at DESC LIMIT 1",
        )
        .bind(slug.as_str())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Lists organizations by slug; deleted ones only where `state` asks for them. With `only`, those of
    /// these slugs, and no deleted ones: a slug may have been another's before.
    pub async fn organizations(
        &self,
        state: Option<OrgState>,
        plan: Option<&str>,
        only: Option<&[String]>,
        page: &Page<(String, String)>,
    ) -> Result<(Vec<Organization>, bool)> {
        let (slug, account) = page.after.clone().unzip();
        let rows = sqlx::query(
            "SELECT id, slug, display_name, plan, limits, allow_organization_reach, state, account_key, created_at, updated_at
             FROM organizations
             WHERE (state = $1 OR ($1 IS NULL AND state <> 'deleted')) AND ($2::text IS NULL OR plan = $2)
               AND ($3::text IS NULL OR (slug, account_key) > ($3, $4))
               AND ($6::text[] IS NULL OR (slug = ANY($6) AND state <> 'deleted'))
             ORDER BY slug, account_key LIMIT $5",
        )
        .bind(state.map(OrgState::as_str))
        .bind(plan)
        .bind(slug)
        .bind(account)
        .bind(page.limit + 1)
        .bind(only)
        .fetch_all(self.pool())
        .await?;
        let (rows, more) = cut(rows, page.limit);
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, more))
    }

    /// Whether the JetStream data of a deleting organization is to be freed.
    pub async fn wants_purge(
        &self,
        account: crate::nkey::PublicKey<crate::nkey::Account>,
    ) -> Result<Option<(OrgSlug, bool)>> {
        let row = sqlx::query("SELECT slug, purge FROM organizations WHERE account_key = $1")
            .bind(account.to_string())
            .fetch_optional(self.pool())
            .await?;
        row.map(|row| Ok((parse(row.try_get("slug")?)?, row.try_get("purge")?))).transpose()
    }
}
