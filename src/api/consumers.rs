//! Durable pull consumers of environments.

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
    extract::{EnvPath, ItemPath, OptionalBody},
    page::List,
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{Authority, Consumers, Proposal, requests::NewConsumer},
    model::{preview::PreviewView, view::ConsumerView},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_consumers)).routes(routes!(put_consumer, show_consumer, delete_consumer))
}

/// Lists the consumers of an environment.
#[utoipa::path(
    get, path = "/orgs/{org}/envs/{envType}/consumers", tag = "consumers",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
    ),
    responses((status = 200, description = "All that the authority made", body = List<ConsumerView>)),
)]
async fn list_consumers(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
) -> Result<Json<List<ConsumerView>>, Refusal> {
    Ok(Json(List::whole(authority.items::<Consumers>(&org, &env_type).await?)))
}

/// Adds a durable pull consumer.
///
/// Finds it when it is there with the same content. It is made on the environment's event stream, or on
/// a further one, as soon as the environment is ready.
#[utoipa::path(
    put, path = "/orgs/{org}/envs/{envType}/consumers/{name}", tag = "consumers",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name, also in JetStream", example = "orders"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    request_body = Option<NewConsumer>,
    responses(
        (status = 201, description = "Added", body = ConsumerView),
        (status = 200, description = "It was there already; or a preview", body = Tried<ConsumerView>),
        (status = 409, description = "There is one with other content, or something of it is not active or being deleted"),
    ),
)]
async fn put_consumer(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
    asked: Asked,
    prefer: Prefer,
    OptionalBody(request): OptionalBody<NewConsumer>,
) -> Result<Response, Refusal> {
    check(&authority, &env_type)?;
    if let Some(preview) = asked.preview(Proposal::PutConsumer(&org, &env_type, &name, &request)).await? {
        return Ok(preview);
    }
    let (view, created) = authority.put_item::<Consumers>(&asked.actor, &org, &env_type, &name, &request).await?;
    let view = authority.wait_item::<Consumers>(&org, &env_type, &name, prefer.wait(), view).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, prefer.applied(), Json(view)).into_response())
}

/// Shows a consumer.
#[utoipa::path(
    get, path = "/orgs/{org}/envs/{envType}/consumers/{name}", tag = "consumers",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name, also in JetStream", example = "orders"),
    ),
    responses((status = 200, description = "The consumer", body = ConsumerView)),
)]
async fn show_consumer(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
) -> Result<Json<ConsumerView>, Refusal> {
    Ok(Json(authority.item::<Consumers>(&org, &env_type, &name).await?))
}

/// Removes a consumer.
///
/// How far it has read is forgotten; the messages stay in the stream.
#[utoipa::path(
    delete, path = "/orgs/{org}/envs/{envType}/consumers/{name}", tag = "consumers",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
        ("name" = String, Path, description = "Name, also in JetStream", example = "orders"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 200, description = "A preview", body = PreviewView),
        (status = 202, description = "The removal is under way", body = ConsumerView),
        (status = 409, description = "The organization is not active"),
    ),
)]
async fn delete_consumer(
    State(authority): State<Arc<Authority>>,
    ItemPath(org, env_type, name): ItemPath,
    asked: Asked,
    prefer: Prefer,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::DeleteConsumer(&org, &env_type, &name)).await? {
        return Ok(preview);
    }
    let view = authority.delete_item::<Consumers>(&asked.actor, &org, &env_type, &name).await?;
    let view = authority.wait_item::<Consumers>(&org, &env_type, &name, prefer.wait(), view).await?;
    Ok((StatusCode::ACCEPTED, prefer.applied(), Json(view)).into_response())
}
