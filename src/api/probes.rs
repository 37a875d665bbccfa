//! Probes: whether the process lives, and whether it can do its work now.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::ApiState;
use crate::{
    authority::{Authority, ServerStanding},
    error::Error,
};

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// The process lives.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always true: else there is no answer.
    pub alive: bool,
}

/// Whether the service can do its work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Everything below is well.
    pub ready: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that the service needs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `database`, `sealing-key`, `servers` or `operator-trusted`.
    #[schema(example = "database")]
    pub name: String,
    /// It is well.
    pub ok: bool,
    /// Why not, and what to do.
    pub reason: Option<String>,
}

impl Check {
    fn of(name: &str, outcome: Result<(), String>) -> Self {
        Self { name: name.to_owned(), ok: outcome.is_ok(), reason: outcome.err() }
    }
}

/// Says that the process lives.
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "It lives", body = Health)),
)]
async fn healthz() -> Json<Health> {
    Json(Health { alive: true })
}

/// Says whether the service can do its work now.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "It cannot, and why", body = Readiness),
    ),
)]
async fn readyz(State(authority): State<Arc<Authority>>) -> (StatusCode, Json<Readiness>) {
    let words = |error: Error| error.to_string();
    let database = match tokio::time::timeout(PATIENCE, authority.store().ping()).await {
        Ok(outcome) => outcome.map_err(words),
        Err(_) => Err("the database does not answer in time".to_owned()),
    };
    let checks = vec![
        Check::of("database", database),
        Check::of("sealing-key", authority.check_signing_key().map_err(words)),
        Check::of("servers", servers(&authority)),
        Check::of(
            "operator-trusted",
            authority.standing().require_trust(authority.operator_signing_key()).map_err(words),
        ),
    ];
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks }))
}

fn servers(authority: &Authority) -> Result<(), String> {
    let standing = authority.standing();
    standing.connected.clone()?;
    if standing.live().next().is_none() {
        return Err("no nats-server answers; check nats.urls and that the servers run".to_owned());
    }
    if !standing.live().any(ServerStanding::is_described) {
        return Err("no nats-server has described itself yet; it does within moments".to_owned());
    }
    Ok(())
}
