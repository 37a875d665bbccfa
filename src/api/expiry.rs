//! What ends next, whosever it is.

use std::sync::Arc;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    credentials::time,
    extract::{Query, at},
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{
    authority::Authority,
    model::{CredentialState, EnvType, OrgSlug, view::CredentialView},
    store::listing::{End, Filter},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_endings))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListEndings {
    /// Only those that end before this time, or within this duration from now: `14d`.
    #[param(example = "14d")]
    expires_before: Option<String>,
    /// Only those in this state.
    state: Option<CredentialState>,
    /// Only those of this organization.
    #[param(example = "acme")]
    org: Option<String>,
    /// Only those of this environment type.
    #[param(example = "prod")]
    env: Option<String>,
    /// Only those of this role.
    role: Option<String>,
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists the credentials of all organizations, the next one to end first.
#[utoipa::path(
    get, path = "/credentials", tag = "credentials", params(ListEndings),
    responses((status = 200, description = "A page", body = List<CredentialView>)),
)]
async fn list_endings(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ListEndings>,
) -> Result<Json<List<CredentialView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), read_key)?;
    let env_type: Option<EnvType> =
        query.env.map(|text| text.parse()).transpose().map_err(|error| at("env", &error))?;
    let org: Option<OrgSlug> = query.org.map(|text| text.parse()).transpose().map_err(|error| at("org", &error))?;
    let ahead = |now: DateTime<Utc>, by| now.checked_add_signed(by);
    let expires_before =
        query.expires_before.map(|text| time("expiresBefore", &text, authority.now(), ahead)).transpose()?;
    let (role, state) = (query.role, query.state);
    let filter = Filter { env_type, role, state, expires_before, ..Filter::default() };
    let (items, more) = authority.endings(org.as_ref(), &filter, &page).await?;
    Ok(Json(List::page(items, more, |last| format!("{}:{}", last.expires_at.timestamp_micros(), last.id))))
}

fn read_key(key: &str) -> Option<End> {
    let (end, id) = key.split_once(':')?;
    Some((DateTime::from_timestamp_micros(end.parse().ok()?)?, Uuid::try_parse(id).ok()?))
}
