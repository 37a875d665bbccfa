//! API tokens: hashes only, where their bearers have their role, and the trace of their use.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    page::{Page, cut},
};
use crate::{
    error::{Error, Result},
    model::{CallerRole, OrgSlug, view::TokenView},
};

/// How old the trace of a token's use may be.
const TRACE: TimeDelta = TimeDelta::minutes(1);

/// A token to be kept.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Identifier.
    pub id: Uuid,
    /// For people, and its bearer's name.
    pub name: String,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
    /// What its bearer is.
    pub role: CallerRole,
    /// Where, by id; none for roles of the whole deployment.
    pub organizations: Vec<Uuid>,
    /// Its end; none for the token of the bundle.
    pub expires_at: Option<DateTime<Utc>>,
    /// Who made it; none for the token of the bundle.
    pub created_by: Option<String>,
}

/// Where a caller comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Itself, who made its token, who made that one's, and so on.
    pub identities: BTreeSet<String>,
    /// Those of them that are the token of a bundle.
    pub break_glass: BTreeSet<String>,
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
    /// Where, by slug: those that are not deleted.
    pub organizations: BTreeSet<String>,
    /// It is the token of the bundle.
    pub break_glass: bool,
    /// Its end.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What stays of a token that was revoked.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// Its name.
    pub name: String,
    /// It was valid until now.
    pub now: bool,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT t.id, t.name, t.role, t.break_glass, t.created_at, t.expires_at, t.revoked_at, t.created_by,
                 t.last_used_at, ARRAY(SELECT o.slug FROM api_token_organizations m
                     JOIN organizations o ON o.id = m.organization_id
                     WHERE m.token_id = t.id AND o.state <> 'deleted' ORDER BY o.slug) AS organizations
             FROM api_tokens t ",
            $rest
        )
    };
}

/// Keeps a token's hash. Refused when another one that is not revoked has the name.
pub async fn insert(connection: &mut PgConnection, token: &NewToken, now: DateTime<Utc>) -> Result<()> {
    let lineage: Vec<String> = match &token.created_by {
        Some(creator) => lineage(&mut *connection, creator).await?.identities.into_iter().collect(),
        None => Vec::new(),
    };
    sqlx::query(
        "INSERT INTO api_tokens (id, name, token_sha256, role, break_glass, created_at, expires_at, created_by,
             lineage)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(token.id)
    .bind(&token.name)
    .bind(&token.sha256[..])
    .bind(token.role.as_str())
    .bind(token.expires_at.is_none())
    .bind(now)
    .bind(token.expires_at)
    .bind(&token.created_by)
    .bind(lineage)
    .execute(&mut *connection)
    .await
    .map_err(|error| {
        if super::violates(&error, "api_tokens_name") {
            let detail = format!("another token is called '{}'; choose another name, or revoke that one", token.name);
            return Error::conflict("token-name-taken", detail);
        }
        error.into()
    })?;
    sqlx::query("INSERT INTO api_token_organizations (token_id, organization_id) SELECT $1, unnest($2::uuid[])")
        .bind(token.id)
        .bind(&token.organizations)
        .execute(connection)
        .await?;
    Ok(())
}

/// Where the caller of this identity comes from. Several tokens may have had a name, one after the other:
/// what was true of one of them counts.
pub async fn lineage(connection: &mut PgConnection, identity: &str) -> Result<Lineage> {
    let mut identities = BTreeSet::from([identity.to_owned()]);
    if let Some(name) = identity.strip_prefix("token:") {
        let earlier: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT unnest(lineage) FROM api_tokens WHERE name = $1")
                .bind(name)
                .fetch_all(&mut *connection)
                .await?;
        identities.extend(earlier);
    }
    let names: Vec<_> = identities.iter().filter_map(|identity| identity.strip_prefix("token:")).collect();
    let break_glass: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT 'token:' || name FROM api_tokens WHERE break_glass AND name = ANY($1)")
            .bind(names)
            .fetch_all(connection)
            .await?;
    Ok(Lineage { identities, break_glass: break_glass.into_iter().collect() })
}

/// Revokes a token; none: there is no such token.
pub async fn revoke(connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<Option<Revoked>> {
    let row = sqlx::query("SELECT name, revoked_at FROM api_tokens WHERE id = $1 FOR UPDATE")
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let earlier: Option<DateTime<Utc>> = row.try_get("revoked_at")?;
    if earlier.is_none() {
        sqlx::query("UPDATE api_tokens SET revoked_at = $2 WHERE id = $1")
            .bind(id)
            .bind(now)
            .execute(connection)
            .await?;
    }
    Ok(Some(Revoked { name: row.try_get("name")?, now: earlier.is_none() }))
}

impl Store {
    /// The bearer of the token with this hash, while it is valid. Its use is noted when the last note is
    /// a minute old.
    pub async fn bearer(&self, sha256: &[u8; 32], now: DateTime<Utc>) -> Result<Option<Bearer>> {
        let row = sqlx::query(select!(
            "WHERE t.token_sha256 = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)"
        ))
        .bind(&sha256[..])
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let noted: Option<DateTime<Utc>> = row.try_get("last_used_at")?;
        let id: Uuid = row.try_get("id")?;
        if noted.is_none_or(|noted| noted < now - TRACE) {
            sqlx::query("UPDATE api_tokens SET last_used_at = $2 WHERE id = $1")
                .bind(id)
                .bind(now)
                .execute(self.pool())
                .await?;
        }
        Ok(Some(Bearer {
            id,
            name: row.try_get("name")?,
            role: super::parse(row.try_get("role")?)?,
            organizations: row.try_get::<Vec<String>, _>("organizations")?.into_iter().collect(),
            break_glass: row.try_get("break_glass")?,
            expires_at: row.try_get("expires_at")?,
        }))
    }

    /// A token, never its text.
    pub async fn token(&self, id: Uuid) -> Result<Option<TokenView>> {
        let row = sqlx::query(select!("WHERE t.id = $1")).bind(id).fetch_optional(self.pool()).await?;
        row.as_ref().map(view).transpose()
    }

    /// Lists tokens in the order of their making.
    pub async fn tokens(&self, page: &Page<Uuid>) -> Result<(Vec<TokenView>, bool)> {
        let rows = sqlx::query(select!("WHERE ($1::uuid IS NULL OR t.id > $1) ORDER BY t.id LIMIT $2"))
            .bind(page.after)
            .bind(page.limit + 1)
            .fetch_all(self.pool())
            .await?;
        let (rows, more) = cut(rows, page.limit);
        Ok((rows.iter().map(view).collect::<Result<_>>()?, more))
    }

    /// The ids of the organizations with these slugs that are not deleted; as many as were found.
    pub async fn organization_ids(&self, slugs: &[OrgSlug]) -> Result<Vec<(String, Uuid)>> {
        let slugs: Vec<_> = slugs.iter().map(ToString::to_string).collect();
        let rows = sqlx::query("SELECT slug, id FROM organizations WHERE slug = ANY($1) AND state <> 'deleted'")
            .bind(slugs)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(|row| Ok((row.try_get("slug")?, row.try_get("id")?))).collect()
    }

    /// Where a credential is: organization, environment type, and whether the organization is deleted.
    pub async fn place_of_credential(&self, id: Uuid) -> Result<Option<(String, String, bool)>> {
        let row = sqlx::query(
            "SELECT o.slug, e.env_type, o.state = 'deleted' AS deleted FROM credentials c
             JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
             WHERE c.id = $1",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| Ok((row.try_get("slug")?, row.try_get("env_type")?, row.try_get("deleted")?))).transpose()
    }
}

fn view(row: &PgRow) -> Result<TokenView> {
    Ok(TokenView {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: super::parse(row.try_get("role")?)?,
        organizations: row.try_get("organizations")?,
        break_glass: row.try_get("break_glass")?,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}
