//! Further streams of environments.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried},
    environments::check,
    extract::{Body, EnvPath, ItemPath},
    page::List,
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{Authority, Proposal, Streams, requests::NewStream},
    model::{preview::PreviewView, view::StreamView},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_streams)).routes(routes!(put_stream, show_stream, delete_stream))
}

/// Lists the further streams of an environment.
#[utoipa::path(
    get, path = "/orgs/{org}/envs/{envType}/streams", tag = "streams",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
    ),
    responses((status = 200, description = "All that the authority made", body = List<StreamView>)),
)]
async fn list_streams(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
) -> Result<Json<List<StreamView>>, Refusal> {
    Ok(Json(List::whole(authority.items::<Streams>(&org, &env_type).await?)))
}

/// Adds a further stream.
///
/// Finds it when it is there with the same content. It copies from the environment's event stream what its
/// filters say, and is made as soon as the environment is ready.
#[utoipa::path(
    put, path = "/orgs/{org}/envs/{envType}/streams/{name}", tag = "streams",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name; in JetStream `ws-{org}-{envType}-{name}`", example = "jobs"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    request_body = NewStream,
    responses(
        (status = 201, description = "Added", body = StreamView),
        (status = 200, description = "It was there already; or a preview", body = Tried<StreamView>),
        (status = 409, description = "There is one with other content, or something of it is not active or being deleted"),
    ),
)]
async fn put_stream(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
    asked: Asked,
    prefer: Prefer,
    Body(request): Body<NewStream>,
) -> Result<Response, Refusal> {
    check(&authority, &env_type)?;
    if let Some(preview) = asked.preview(Proposal::PutStream(&org, &env_type, &name, &request)).await? {
        return Ok(preview);
    }
    let (view, created) = authority.put_item::<Streams>(&asked.actor, &org, &env_type, &name, &request).await?;
    let view = authority.wait_item::<Streams>(&org, &env_type, &name, prefer.wait(), view).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, prefer.applied(), Json(view)).into_response())
}

/// Shows a further stream.
#[utoipa::path(
    get, path = "/orgs/{org}/envs/{envType}/streams/{name}", tag = "streams",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name; in JetStream `ws-{org}-{envType}-{name}`", example = "jobs"),
    ),
    responses((status = 200, description = "The stream", body = StreamView)),
)]
async fn show_stream(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
) -> Result<Json<StreamView>, Refusal> {
    Ok(Json(authority.item::<Streams>(&org, &env_type, &name).await?))
}

/// Removes a further stream.
///
/// What it has copied goes; the event stream keeps its messages.
#[utoipa::path(
    delete, path = "/orgs/{org}/envs/{envType}/streams/{name}", tag = "streams",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name; in JetStream `ws-{org}-{envType}-{name}`", example = "jobs"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 200, description = "A preview", body = PreviewView),
        (status = 202, description = "The removal is under way", body = StreamView),
        (status = 409, description = "The organization is not active, or consumers read from it"),
    ),
)]
async fn delete_stream(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
    asked: Asked,
    prefer: Prefer,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::DeleteStream(&org, &env_type, &name)).await? {
        return Ok(preview);
    }
    let view = authority.delete_item::<Streams>(&asked.actor, &org, &env_type, &name).await?;
    let view = authority.wait_item::<Streams>(&org, &env_type, &name, prefer.wait(), view).await?;
    Ok((StatusCode::ACCEPTED, prefer.applied(), Json(view)).into_response())
}
