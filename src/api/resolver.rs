//! What the servers have: their standing, and asking for everything to be looked at again.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, caller::Caller, extract::ServerPath, problem::Refusal};
use crate::{
    authority::{Authority, ServerStanding},
    model::view::ResolverType,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show_resolver)).routes(routes!(forget_server)).routes(routes!(reconcile))
}

/// How the cluster stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolverStatus {
    /// The connection to the system account is up.
    pub connected: bool,
    /// Why it is not.
    pub error: Option<String>,
    /// The accounts.
    pub accounts: AccountCounts,
    /// When every server was last found to store exactly what it should; null: not since the service started.
    #[serde(default)]
    pub agreed_at: Option<DateTime<Utc>>,
    /// Accounts that servers store and the ledger does not know; they are left alone. At most 100 of them.
    #[serde(default)]
    pub unknown_accounts: Vec<String>,
    /// Every server that was ever seen, by name.
    pub servers: Vec<ServerStatus>,
}

/// How many accounts there are.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountCounts {
    /// All that are not deleted.
    pub total: i64,
    /// Those that some server still has to get.
    pub due: i64,
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// Name, stable over restarts.
    #[schema(example = "n1")]
    pub name: String,
    /// Id, new with every restart.
    pub id: String,
    /// Cluster.
    pub cluster: Option<String>,
    /// Version.
    #[schema(example = "2.12.1")]
    pub version: String,
    /// It answers now.
    pub live: bool,
    /// It trusts this operator's signing key; null: it has not said so yet.
    pub trusts_operator: Option<bool>,
    /// Its kind of resolver; null: it has not told yet.
    #[serde(default)]
    pub resolver: Option<ResolverType>,
    /// When it started; null: it has not told yet.
    #[serde(default)]
    pub started_at: Option<DateTime<Utc>>,
    /// The operator keys whose signatures on accounts it accepts.
    #[serde(default)]
    pub operator_keys: Vec<String>,
    /// What somebody should do something about, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// JetStream memory, bytes.
    pub max_memory: i64,
    /// JetStream disk, bytes.
    pub max_disk: i64,
    /// The largest message, bytes.
    pub max_payload: i64,
    /// When it last answered.
    pub seen_at: DateTime<Utc>,
}

impl From<&ServerStanding> for ServerStatus {
    fn from(server: &ServerStanding) -> Self {
        let row = &server.row;
        Self {
            name: row.name.clone(),
            id: row.id.clone(),
            cluster: row.cluster.clone(),
            version: row.version.clone(),
            live: row.live,
            trusts_operator: server.trusts_us,
            resolver: server.told.resolver,
            started_at: server.told.started,
            operator_keys: server.told.operator_keys.clone(),
            warnings: warnings(server),
            max_memory: row.max_memory,
            max_disk: row.max_disk,
            max_payload: row.max_payload,
            seen_at: row.seen_at,
        }
    }
}

fn warnings(server: &ServerStanding) -> Vec<String> {
    let mut warnings = Vec::new();
    if server.row.live && server.trusts_us == Some(false) {
        warnings.push("it does not trust this operator's signing key, so that nothing is signed".to_owned());
    }
    if let Some(at) = server.told.reloaded.filter(|_| server.row.live) {
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let words = "it reloaded its configuration at {at} and looks no account up elsewhere until it restarts";
        warnings.push(words.replace("{at}", &at));
    }
    warnings
}

/// Accounts that are compared.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reconciliation {
    /// How many.
    pub accounts: u64,
}

/// Shows how the cluster stands. What a server has of one account stands with its organization.
#[utoipa::path(
    get, path = "/resolver", tag = "resolver",
    responses((status = 200, description = "As last seen", body = ResolverStatus)),
)]
async fn show_resolver(State(authority): State<Arc<Authority>>) -> Result<Json<ResolverStatus>, Refusal> {
    let (total, due) = authority.store().account_counts().await?;
    let standing = authority.standing();
    let compared = authority.compared();
    Ok(Json(ResolverStatus {
        connected: standing.connected.is_ok(),
        error: standing.connected.clone().err(),
        accounts: AccountCounts { total, due },
        agreed_at: compared.agreed_at,
        unknown_accounts: compared.unknown.iter().take(100).map(ToString::to_string).collect(),
        servers: standing.servers.iter().map(ServerStatus::from).collect(),
    }))
}

/// Forgets a server that is gone for good; one that answers is refused.
#[utoipa::path(
    delete, path = "/resolver/servers/{name}", tag = "resolver",
    params(("name" = String, Path, description = "Server name", example = "n3")),
    responses((status = 204, description = "Forgotten")),
)]
async fn forget_server(
    State(authority): State<Arc<Authority>>,
    ServerPath(name): ServerPath,
    caller: Caller,
) -> Result<StatusCode, Refusal> {
    authority.forget_server(&caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has every account compared with every server, and pushed where they differ.
#[utoipa::path(
    post, path = "/resolver/reconcile", tag = "resolver",
    responses((status = 202, description = "Under way; `agreedAt` of GET /resolver says when all servers were found right", body = Reconciliation)),
)]
async fn reconcile(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
) -> Result<(StatusCode, Json<Reconciliation>), Refusal> {
    let (total, _) = authority.store().account_counts().await?;
    tracing::info!(accounts = total, caller = caller.actor.subject, "asked to reconcile");
    authority.reconcile_wanted.notify_one();
    authority.restore_wanted.notify_one();
    Ok((StatusCode::ACCEPTED, Json(Reconciliation { accounts: u64::try_from(total).unwrap_or_default() })))
}
