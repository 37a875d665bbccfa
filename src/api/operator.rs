//! The operator: what it is, what servers have to trust, and users of the system account for tools.

use std::{path::Path, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use super::{ApiState, caller::Caller, extract::Body, keys::KeyView, page::List, problem::Refusal};
use crate::{
    authority::{
        Authority, present_trust,
        requests::NewSystemCredential,
        server_config::{ResolverKind, operator_section},
    },
    error::Error,
};

/// Where servers store account JWTs, relative to their working directory; a deployment that wants
/// another place changes the line.
const RESOLVER_DIR: &str = "./jwt";

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(show_operator))
        .routes(routes!(list_operator_keys))
        .routes(routes!(issue_system_credential))
        .routes(routes!(show_server_config))
}

/// The operator of this deployment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorView {
    /// For people.
    pub name: String,
    /// Public key of its identity.
    pub public_key: String,
    /// Public key that signs accounts.
    pub signing_key: String,
    /// Public key of the system account.
    pub system_account: String,
    /// Public key of the platform account: the authority's own, which every organization's account imports
    /// the renewal of credentials from.
    pub platform_account: String,
    /// The operator JWT.
    pub jwt: String,
    /// When this deployment took it.
    pub adopted_at: DateTime<Utc>,
}

/// Shows the operator.
#[utoipa::path(
    get, path = "/operator", tag = "operator",
    responses((status = 200, description = "The operator", body = OperatorView)),
)]
async fn show_operator(State(authority): State<Arc<Authority>>) -> Result<Json<OperatorView>, Refusal> {
    Ok(Json(view(&authority).await?))
}

/// The operator as the ledger has it now.
pub(super) async fn view(authority: &Authority) -> crate::error::Result<OperatorView> {
    authority.refresh_operator().await?;
    let row = authority.operator();
    Ok(OperatorView {
        name: row.name.clone(),
        public_key: row.public_key.to_string(),
        signing_key: authority.operator_signing_key().to_string(),
        system_account: row.system_account.to_string(),
        platform_account: authority.platform()?.to_string(),
        jwt: row.jwt.clone(),
        adopted_at: row.adopted_at,
    })
}

/// Lists the operator's signing keys, the oldest first, with what a rotation of them waits for.
#[utoipa::path(
    get, path = "/operator/keys", tag = "operator",
    responses((status = 200, description = "All of them", body = List<KeyView>)),
)]
async fn list_operator_keys(State(authority): State<Arc<Authority>>) -> Result<Json<List<KeyView>>, Refusal> {
    let keys = authority.operator_keys().await?;
    let views = keys.into_iter().map(|(row, rotation)| KeyView {
        rotation: rotation.as_ref().map(|rotation| rotation.id),
        waits_for: rotation.and_then(|rotation| rotation.waits_for),
        ..KeyView::from(row)
    });
    Ok(Json(List::whole(views.collect())))
}

/// A user of the system account for tools, answered once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SystemCredential {
    /// The creds file. Secret; it cannot be had again.
    #[serde(serialize_with = "expose", deserialize_with = "take")]
    #[schema(value_type = String)]
    pub creds: Zeroizing<String>,
}

fn expose<S: Serializer>(creds: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(creds)
}

fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// Issues a short-lived user of the system account.
///
/// For tools such as `nats server`. It may do everything in the system account; the audit log has it.
#[utoipa::path(
    post, path = "/operator/system-credentials", tag = "operator", request_body = NewSystemCredential,
    responses((status = 201, description = "Issued", body = SystemCredential)),
)]
async fn issue_system_credential(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
    Body(request): Body<NewSystemCredential>,
) -> Result<Response, Refusal> {
    let creds = authority.system_credential(&caller.actor, &request).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(SystemCredential { creds })).into_response())
}

/// Shows the part of `nats-server.conf` that makes servers trust this operator, with its present JWT.
#[utoipa::path(
    get, path = "/operator/server-config", tag = "operator",
    responses((status = 200, description = "To be included", body = String, content_type = "text/plain")),
)]
async fn show_server_config(State(authority): State<Arc<Authority>>) -> Result<Response, Refusal> {
    let trust = present_trust(authority.store()).await?.ok_or_else(|| Error::internal("there is no operator"))?;
    let text = operator_section(&trust, &ResolverKind::Full, Path::new(RESOLVER_DIR));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
