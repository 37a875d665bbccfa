//! Environments of organizations.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried, etag_of},
    extract::{EnvPath, OrgPath, at},
    page::List,
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{Authority, Proposal},
    error::Result as Outcome,
    model::{
        EnvType, OrgSlug,
        preview::PreviewView,
        view::{EnvironmentView, ResolverView},
    },
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_environments)).routes(routes!(
        put_environment,
        show_environment,
        delete_environment
    ))
}

/// An environment after a change, with what the servers have of its organization's account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangedEnvironment {
    /// The environment.
    #[serde(flatten)]
    pub environment: EnvironmentView,
    /// What the servers have.
    pub resolver: ResolverView,
}

/// Lists the environments of an organization.
#[utoipa::path(
    get, path = "/orgs/{org}/envs", tag = "environments",
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses((status = 200, description = "All of them", body = List<EnvironmentView>)),
)]
async fn list_environments(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
) -> Result<Json<List<EnvironmentView>>, Refusal> {
    Ok(Json(List::whole(authority.environments(&org).await?)))
}

/// Adds an environment.
///
/// Finds it when it is there. Its event stream and KV bucket are made in the organization's account.
#[utoipa::path(
    put, path = "/orgs/{org}/envs/{envType}", tag = "environments",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 201, description = "Added", body = ChangedEnvironment),
        (status = 200, description = "It was there already; or a preview", body = Tried<ChangedEnvironment>),
        (status = 409, description = "The organization is not active, or the environment is being deleted"),
    ),
)]
async fn put_environment(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
    asked: Asked,
    prefer: Prefer,
) -> Result<Response, Refusal> {
    check(&authority, &env_type)?;
    if let Some(preview) = asked.preview(Proposal::PutEnvironment(&org, &env_type)).await? {
        return Ok(preview);
    }
    let (environment, created) = authority.put_environment(&asked.actor, &org, &env_type).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    changed(status, &authority, prefer, &org, environment).await
}

/// Shows an environment.
#[utoipa::path(
    get, path = "/orgs/{org}/envs/{envType}", tag = "environments",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
    ),
    responses((status = 200, description = "The environment", body = EnvironmentView)),
)]
async fn show_environment(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
) -> Result<Json<EnvironmentView>, Refusal> {
    Ok(Json(authority.environment(&org, &env_type).await?))
}

/// Removes an environment.
///
/// Its users are closed at once; its stream and bucket go with their data.
#[utoipa::path(
    delete, path = "/orgs/{org}/envs/{envType}", tag = "environments",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 202, description = "The removal is under way", body = ChangedEnvironment),
        (status = 200, description = "A preview", body = PreviewView),
        (status = 409, description = "The organization is not active"),
    ),
)]
async fn delete_environment(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
    asked: Asked,
    prefer: Prefer,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::DeleteEnvironment(&org, &env_type)).await? {
        return Ok(preview);
    }
    let environment = authority.delete_environment(&asked.actor, &org, &env_type).await?;
    changed(StatusCode::ACCEPTED, &authority, prefer, &org, environment).await
}

/// Refuses an environment type that is none here, as a fault of the path.
pub(super) fn check(authority: &Authority, env_type: &EnvType) -> Outcome<()> {
    authority.settings().names.check_env_type(env_type).map_err(|error| at("envType", &error))
}

async fn changed(
    status: StatusCode,
    authority: &Authority,
    prefer: Prefer,
    org: &OrgSlug,
    environment: EnvironmentView,
) -> Result<Response, Refusal> {
    let view = prefer.settled_or_now(authority, org, true).await?;
    let now = view.environments.into_iter().find(|env| env.env_type == environment.env_type);
    let environment = now.unwrap_or(EnvironmentView {
        // Gone meanwhile: an organization lists only environments that are there.
        state: crate::model::EnvState::Deleted,
        ..environment
    });
    let body = ChangedEnvironment { environment, resolver: view.resolver };
    Ok((status, prefer.applied(), etag_of(&body.resolver), Json(body)).into_response())
}
