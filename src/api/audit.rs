//! The audit log: its events, the proof that it is whole, and the whole of it as lines of JSON.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures::{TryStreamExt, stream};
use serde::Deserialize;
use serde_with::{DisplayFromStr, serde_as};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    credentials::time,
    extract::Query,
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{
    authority::{Authority, audit_log::AuditVerdict},
    error::Error,
    model::{
        audit::{ChainHash, ExportedLink},
        view::AuditEventView,
    },
    store::audit::Filter,
};

/// How many events are in memory at a time during an export.
const EXPORTED_AT_ONCE: i64 = 500;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_audit_events))
        .routes(routes!(verify_audit_log))
        .routes(routes!(export_audit_log))
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct VerifyAuditLog {
    /// A position whose hash was kept elsewhere, `POSITION:HASH`: `verified` and `hash` of an earlier answer.
    anchor: Option<String>,
}

/// Checks that no event was changed, removed or reordered.
///
/// Each event is bound to all before it by a hash. Whoever can write the database can also write all hashes
/// anew; only a hash that was kept elsewhere (`anchor`, or the stream of published events) shows that.
#[utoipa::path(
    get, path = "/audit/verify", tag = "audit", params(VerifyAuditLog),
    responses((status = 200, description = "What was found; `intact` is the answer", body = AuditVerdict)),
)]
async fn verify_audit_log(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<VerifyAuditLog>,
) -> Result<Json<AuditVerdict>, Refusal> {
    let anchor = query.anchor.as_deref().map(read_anchor).transpose()?;
    Ok(Json(authority.verify_audit(anchor).await?))
}

fn read_anchor(text: &str) -> crate::error::Result<(i64, ChainHash)> {
    text.split_once(':')
        .and_then(|(position, hash)| Some((position.parse().ok().filter(|at| *at > 0)?, ChainHash::parse(hash)?)))
        .ok_or_else(|| {
            let detail = "an anchor is a position and the 64 hexadecimal characters of its hash: 1042:b5bb9d80…";
            Error::field("invalid-anchor", "anchor", detail)
        })
}

#[serde_as]
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportAuditLog {
    /// Only what stands behind this position.
    #[serde_as(as = "Option<DisplayFromStr>")]
    #[serde(default)]
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295i64, example = 0)]
    after: Option<u32>,
}

/// Exports the audit log in its order, one line of JSON an event.
///
/// Each line carries position and hash, so that the export can be checked without the service:
/// `nats-authority audit verify --file`.
#[utoipa::path(
    get, path = "/audit/export", tag = "audit", params(ExportAuditLog),
    responses((status = 200, description = "All of it", body = String, content_type = "application/x-ndjson")),
)]
async fn export_audit_log(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ExportAuditLog>,
) -> Result<Response, Refusal> {
    authority.link_audit_events().await?;
    let after = i64::from(query.after.unwrap_or_default());
    // What comes later is for the next export: a log that grows must not keep this one from its end.
    let end = authority.store().audit_head().await?;
    let lines = stream::try_unfold(after, move |after| {
        let authority = Arc::clone(&authority);
        async move {
            let mut links = authority.store().audit_links(after, EXPORTED_AT_ONCE).await?;
            links.retain(|link| link.position <= end);
            let Some(last) = links.last().map(|link| link.position) else { return Ok(None) };
            let mut text = String::new();
            for link in links {
                let line = serde_json::to_string(&ExportedLink::from(link));
                text.push_str(&line.map_err(|error| Error::internal("an audit event is no JSON").with_source(error))?);
                text.push('\n');
            }
            Ok::<_, Error>(Some((text, last)))
        }
    });
    let lines = lines.inspect_err(|error| tracing::error!(%error, cause = error.internal_report(), "audit export"));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
