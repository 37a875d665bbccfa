//! What the servers have: their standing, and asking for everything to be looked at again.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    caller::Caller,
    extract::ServerPath,
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{Authority, ServerStanding},
    model::view::{Convergence, ResolverType},
    store::figures::{self, ServerCount},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show_resolver)).routes(routes!(forget_server)).routes(routes!(reconcile))
}

/// How the cluster stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolverStatus {
    /// How far the servers are with all accounts: `converged` (every known server has every account as it should),
    /// `pending` (no live server has everything), `partial` (`missing` names those that have not), `unreachable`.
    pub state: Convergence,
    /// The known servers that lack an account or run an older one, by name.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Since when all have been converged, as far as this run of the service has looked (every few seconds, and when asked);
    /// null: they are not.
    pub converged_since: Option<DateTime<Utc>>,
    /// When all were last found converged; null: not since the service started.
    pub converged_at: Option<DateTime<Utc>>,
    /// When that was counted: within the last second, or a little earlier where counting takes long.
    pub counted_at: DateTime<Utc>,
    /// The connection to the system account is up.
    pub connected: bool,
    /// Why it is not.
    pub error: Option<String>,
    /// The accounts.
    pub accounts: AccountCounts,
    /// When all servers were last compared, by hash, and found to store exactly what they should; null: not since the
    /// service started. It is of all, for a server that answers does not say which one it is.
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
    /// Those that some server that answers still has to get.
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
    /// How many accounts it lacks, or runs in an older generation; of one that does not answer: that it lacks as far as
    /// is known. A server that restarted lacks what it has not confirmed since.
    #[serde(default)]
    pub lacking: i64,
    /// How many of them it did not take, or does not run as it should.
    #[serde(default)]
    pub refused: i64,
    /// The latest of these; what it has of another one stands with its organization.
    #[serde(default)]
    pub refusal: Option<ServerRefusal>,
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

/// An account that a server did not take, or does not run as it should.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerRefusal {
    /// Public key of the account.
    pub account_id: String,
    /// Its organization; null: the account is the authority's own.
    pub org: Option<String>,
    /// The server's words.
    pub error: String,
}

impl From<figures::Refusal> for ServerRefusal {
    fn from(refusal: figures::Refusal) -> Self {
        Self {
            account_id: refusal.account.to_string(),
            org: refusal.org.map(|slug| slug.to_string()),
            error: refusal.error,
        }
    }
}

impl ServerStatus {
    fn new(server: &ServerStanding, count: Option<&ServerCount>) -> Self {
        let row = &server.row;
        let count = count.cloned().unwrap_or_default();
        Self {
            name: row.name.clone(),
            id: row.id.clone(),
            cluster: row.cluster.clone(),
            version: row.version.clone(),
            live: row.live,
            lacking: count.lacking,
            refused: count.refused,
            refusal: count.refusal.map(ServerRefusal::from),
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
///
/// With `Prefer: wait=N` the answer comes when a count that begins with the request finds all servers converged, or
/// after N seconds.
#[utoipa::path(
    get, path = "/resolver", tag = "resolver", params(PreferHeader),
    responses((status = 200, description = "As last seen", body = ResolverStatus)),
)]
async fn show_resolver(
    State(authority): State<Arc<Authority>>,
    prefer: Prefer,
) -> Result<(HeaderMap, Json<ResolverStatus>), Refusal> {
    let whole = if prefer.wait().is_zero() {
        authority.whole_lately().await?
    } else {
        authority.wait_whole(prefer.wait()).await?
    };
    let standing = authority.standing();
    let compared = authority.compared();
    let servers = standing.servers.iter().map(|server| (server, whole.count.servers.get(&server.row.name)));
    let status = ResolverStatus {
        state: whole.state,
        missing: whole.missing.clone(),
        converged_since: whole.converged_since,
        converged_at: whole.converged_at,
        counted_at: whole.counted_at,
        connected: standing.connected.is_ok(),
        error: standing.connected.clone().err(),
        accounts: AccountCounts { total: whole.count.total(), due: whole.count.due },
        agreed_at: compared.agreed_at,
        unknown_accounts: compared.unknown.iter().take(100).map(ToString::to_string).collect(),
        servers: servers.map(|(server, count)| ServerStatus::new(server, count)).collect(),
    };
    Ok((prefer.applied(), Json(status)))
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
