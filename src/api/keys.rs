//! Signing keys, their public halves.

use std::sync::Arc;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, extract::OrgPath, page::List, problem::Refusal};
use crate::{authority::Authority, error::Error, store::keys::KeyRow};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_organization_keys))
}

/// A signing key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    /// Public key.
    pub public_key: String,
    /// `operator`; `account`: signs users that carry their own permissions; `scoped`: signs users of
    /// one role in one environment.
    #[schema(example = "scoped")]
    pub kind: String,
    /// Environment type of a scoped key.
    pub env_type: Option<String>,
    /// Role of a scoped key.
    pub role: Option<String>,
    /// `active` or `retired`.
    #[schema(example = "active")]
    pub state: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl From<KeyRow> for KeyView {
    fn from(row: KeyRow) -> Self {
        let KeyRow { public_key, kind, env_type, role, state, created_at } = row;
        Self { public_key, kind, env_type, role, state, created_at }
    }
}

/// Lists the signing keys of an organization's account, the oldest first.
#[utoipa::path(
    get, path = "/orgs/{org}/keys", tag = "keys",
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses((status = 200, description = "All of them", body = List<KeyView>)),
)]
async fn list_organization_keys(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
) -> Result<Json<List<KeyView>>, Refusal> {
    let found = authority.store().organization_or_deleted(&org).await?;
    let found =
        found.ok_or_else(|| Error::not_found("no-organization", format!("there is no organization '{org}'")))?;
    let rows = authority.store().organization_keys(found.id).await?;
    Ok(Json(List::whole(rows.into_iter().map(KeyView::from).collect())))
}
