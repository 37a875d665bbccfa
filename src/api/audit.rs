//! The audit log.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    credentials::time,
    extract::Query,
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{authority::Authority, model::view::AuditEventView, store::audit::Filter};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_audit_events))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListAuditEvents {
    /// Only on this organization.
    org: Option<String>,
    /// Only by this actor.
    #[param(example = "token:admin")]
    actor: Option<String>,
    /// Only this action.
    #[param(example = "credential.issue")]
    action: Option<String>,
    /// Only from this time on, or within this duration before now: `24h`.
    #[param(example = "24h")]
    since: Option<String>,
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists audit events, the newest first.
#[utoipa::path(
    get, path = "/audit", tag = "audit", params(ListAuditEvents),
    responses((status = 200, description = "A page", body = List<AuditEventView>)),
)]
async fn list_audit_events(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ListAuditEvents>,
) -> Result<Json<List<AuditEventView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| key.parse::<i64>().ok())?;
    let back = |now: chrono::DateTime<chrono::Utc>, by| now.checked_sub_signed(by);
    let since = query.since.map(|text| time("since", &text, authority.now(), back)).transpose()?;
    let filter = Filter { org: query.org, actor: query.actor, action: query.action, since };
    let (items, more) = authority.store().audit_events(&filter, &page).await?;
    Ok(Json(List::page(items, more, |last| last.seq.to_string())))
}
