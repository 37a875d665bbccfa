//! Lists of credentials: of one organization in the order of their issue, of all of them in the order of
//! their end. The text of each question names only what was asked for, so that the plan fits it.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::{
    Store,
    credentials::{COLUMNS, from_row},
    page::{Page, cut},
};
use crate::{
    error::Result,
    model::{Credential, CredentialState, EnvType, OrgSlug},
    nkey::{Account, PublicKey},
};

/// Which credentials to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this environment type.
    pub env_type: Option<EnvType>,
    /// Of this role.
    pub role: Option<String>,
    /// In this state.
    pub state: Option<CredentialState>,
    /// Ending before.
    pub expires_before: Option<DateTime<Utc>>,
    /// Of a key whose first JWT was issued before: a renewal does not make it younger.
    pub first_issued_before: Option<DateTime<Utc>>,
    /// Issued by this signing key.
    pub signing_key: Option<PublicKey<Account>>,
}

/// Where a list in the order of the end goes on: the end and the id of the last one.
pub type End = (DateTime<Utc>, Uuid);

impl Store {
    /// Lists the credentials of an organization in the order of their issue.
    pub async fn credentials(
        &self,
        org: Uuid,
        filter: &Filter,
        now: DateTime<Utc>,
        page: &Page<Uuid>,
    ) -> Result<(Vec<Credential>, bool)> {
        let after = |query: &mut Query| {
            if let Some(after) = page.after {
                query.push(" AND c.id > ").push_bind(after);
            }
        };
        let of = |query: &mut Query| {
            query.push(" WHERE o.id = ").push_bind(org);
        };
        let query = of_one(filter, now, "c.id", page.limit + 1, of, after);
        self.listed(query, page.limit).await
    }

    /// Lists the credentials of all organizations, or of one, deleted or not, in the order of their end.
    pub async fn endings(
        &self,
        org: Option<&OrgSlug>,
        filter: &Filter,
        now: DateTime<Utc>,
        page: &Page<End>,
    ) -> Result<(Vec<Credential>, bool)> {
        const ORDER: &str = "c.expires_at, c.id";
        let after = |query: &mut Query| {
            if let Some((end, id)) = page.after {
                query.push(" AND (c.expires_at, c.id) > (").push_bind(end).push(", ").push_bind(id).push(")");
            }
        };
        let query = if let Some(org) = org {
            let of = |query: &mut Query| {
                query.push(" WHERE o.slug = ").push_bind(org.as_str().to_owned());
            };
            match filter.state {
                Some(CredentialState::Active | CredentialState::Superseded) => {
                    valid_of_one(filter, now, page, of, after)
                }
                _ => of_one(filter, now, ORDER, page.limit + 1, of, after),
            }
        } else {
            let mut query = selecting();
            query.push(" JOIN credentials c ON c.environment_id = e.id WHERE true");
            narrow(&mut query, filter, now);
            after(&mut query);
            of_type(&mut query, filter);
            query.push(" ORDER BY ").push(ORDER).push(" LIMIT ").push_bind(page.limit + 1);
            query
        };
        self.listed(query, page.limit).await
    }

    async fn listed(&self, mut query: Query, limit: i64) -> Result<(Vec<Credential>, bool)> {
        let (rows, more) = cut(query.build().fetch_all(self.pool()).await?, limit);
        Ok((rows.iter().map(from_row).collect::<Result<_>>()?, more))
    }

    /// Whether an organization ever had this name.
    pub async fn slug_known(&self, slug: &OrgSlug) -> Result<bool> {
        let row = sqlx::query("SELECT EXISTS (SELECT 1 FROM organizations WHERE slug = $1) AS known")
            .bind(slug.as_str())
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get("known")?)
    }
}

type Query = QueryBuilder<Postgres>;

fn selecting() -> Query {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM organizations o JOIN environments e ON e.organization_id = o.id");
    query
}

/// Of one organization: each environment gives its first ones. A join would be read in the order of all
/// credentials, and of a small organization, or one that has stopped issuing, few are among them.
fn of_one(
    filter: &Filter,
    now: DateTime<Utc>,
    order: &str,
    limit: i64,
    of: impl FnOnce(&mut Query),
    after: impl FnOnce(&mut Query),
) -> Query {
    let mut query = selecting();
    query.push(" CROSS JOIN LATERAL (SELECT * FROM credentials c WHERE c.environment_id = e.id");
    narrow(&mut query, filter, now);
    after(&mut query);
    query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(limit).push(") c");
    of(&mut query);
    of_type(&mut query, filter);
    query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(limit);
    query
}

/// The same of what is valid, in the order of the end. Of those that live equally long that is the order of their
/// issue, so an index gives them from the first one that is meant, however many have ended.
fn valid_of_one(
    filter: &Filter,
    now: DateTime<Utc>,
    page: &Page<End>,
    of: impl FnOnce(&mut Query),
    after: impl FnOnce(&mut Query),
) -> Query {
    let (limit, from) = (page.limit + 1, page.after.map_or(now, |(end, _)| end.max(now)));
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(
        " FROM organizations o CROSS JOIN LATERAL credential_lives(o.id) l JOIN environments e ON e.id = l.environment_id
          CROSS JOIN LATERAL (SELECT * FROM credentials c
              WHERE c.environment_id = l.environment_id AND c.role = l.role AND c.expires_at - c.issued_at = l.life
                  AND c.issued_at >= issued_for(",
    );
    query.push_bind(from).push(", l.life)");
    if let Some(before) = filter.expires_before {
        query.push(" AND c.issued_at < issued_for(").push_bind(before).push(", l.life)");
    }
    narrow(&mut query, filter, now);
    after(&mut query);
    query.push(" ORDER BY c.issued_at, c.id LIMIT ").push_bind(limit).push(") c");
    of(&mut query);
    of_type(&mut query, filter);
    query.push(" ORDER BY c.expires_at, c.id LIMIT ").push_bind(limit);
    query
}

fn of_type(query: &mut Query, filter: &Filter) {
    if let Some(env_type) = &filter.env_type {
        query.push(" AND e.env_type = ").push_bind(env_type.as_str().to_owned());
    }
}

/// What is asked of the credential itself.
fn narrow(query: &mut Query, filter: &Filter, now: DateTime<Utc>) {
    if let Some(role) = &filter.role {
        query.push(" AND c.role = ").push_bind(role.clone());
    }
    if let Some(before) = filter.expires_before {
        query.push(" AND c.expires_at < ").push_bind(before);
    }
    if let Some(before) = filter.first_issued_before {
        query.push(" AND COALESCE(c.first_issued_at, c.issued_at) < ").push_bind(before);
    }
    if let Some(key) = filter.signing_key {
        query.push(" AND c.issuer_key = ").push_bind(key.to_string());
    }
    // What `Credential::state` says.
    match filter.state {
        None => {}
        Some(CredentialState::Revoked) => {
            query.push(" AND c.revoked_at IS NOT NULL");
        }
        Some(CredentialState::Expired) => {
            query.push(" AND c.revoked_at IS NULL AND c.expires_at <= ").push_bind(now);
        }
        Some(CredentialState::Superseded) => {
            query.push(" AND c.revoked_at IS NULL AND c.superseded_at IS NOT NULL AND c.expires_at > ").push_bind(now);
        }
        Some(CredentialState::Active) => {
            query.push(" AND c.revoked_at IS NULL AND c.superseded_at IS NULL AND c.expires_at > ").push_bind(now);
        }
    }
}
