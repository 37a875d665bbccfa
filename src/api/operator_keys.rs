//! Rotation of the operator's signing key, and the operator JWTs that it needs.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    caller::Caller,
    extract::{Body, OptionalBody, Query, RotationPath},
    operator::{OperatorView, view},
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{
    authority::{Authority, requests::Reason},
    model::{OperatorJwtProposal, operator_rotation::OperatorRotationView},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(rotate_operator_key))
        .routes(routes!(list_operator_rotations))
        .routes(routes!(show_operator_rotation))
        .routes(routes!(approve_operator_rotation))
        .routes(routes!(cancel_operator_rotation))
        .routes(routes!(propose_operator_jwt))
        .routes(routes!(set_operator_jwt))
}

/// An operator JWT.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperatorJwt {
    /// Signed with the operator's identity.
    pub jwt: String,
}

/// Asks for the rotation of the operator's signing key.
///
/// Nothing happens until a second person with the role security-officer approves.
#[utoipa::path(
    post, path = "/operator/keys/rotate", tag = "operator", request_body = Option<Reason>,
    responses(
        (status = 202, description = "Proposed", body = OperatorRotationView),
        (status = 409, description = "It is being rotated already"),
    ),
)]
async fn rotate_operator_key(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Response, Refusal> {
    let view = authority.propose_operator_rotation(&caller.actor, &reason).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListOperatorRotations {
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists rotations of the operator's signing key, the newest first.
#[utoipa::path(
    get, path = "/operator/rotations", tag = "operator", params(ListOperatorRotations),
    responses((status = 200, description = "A page", body = List<OperatorRotationView>)),
)]
async fn list_operator_rotations(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ListOperatorRotations>,
) -> Result<Json<List<OperatorRotationView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| Uuid::try_parse(key).ok())?;
    let (items, more) = authority.operator_rotations(&page).await?;
    Ok(Json(List::page(items, more, |last| last.id.to_string())))
}

/// Shows a rotation of the operator's signing key and what it waits for.
#[utoipa::path(
    get, path = "/operator/rotations/{id}", tag = "operator",
    params(("id" = Uuid, Path, description = "Identifier")),
    responses((status = 200, description = "The rotation", body = OperatorRotationView)),
)]
async fn show_operator_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
) -> Result<Json<OperatorRotationView>, Refusal> {
    Ok(Json(authority.operator_rotation(id).await?))
}

/// Approves a rotation of the operator's signing key, as a second person.
///
/// The new key is made. It signs nothing before every server trusts it.
#[utoipa::path(
    post, path = "/operator/rotations/{id}/approve", tag = "operator",
    params(("id" = Uuid, Path, description = "Identifier")),
    responses(
        (status = 200, description = "Approved", body = OperatorRotationView),
        (status = 403, description = "Not with the role security-officer, or not by another person"),
        (status = 409, description = "It is not waiting for an approval"),
    ),
)]
async fn approve_operator_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
    caller: Caller,
) -> Result<Json<OperatorRotationView>, Refusal> {
    Ok(Json(authority.approve_operator_rotation(&caller.actor, id).await?))
}

/// Gives a rotation of the operator's signing key up, as long as its new key signs nothing.
#[utoipa::path(
    post, path = "/operator/rotations/{id}/cancel", tag = "operator", request_body = Option<Reason>,
    params(("id" = Uuid, Path, description = "Identifier")),
    responses(
        (status = 200, description = "Cancelled", body = OperatorRotationView),
        (status = 409, description = "The new key signs already"),
    ),
)]
async fn cancel_operator_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
    caller: Caller,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Json<OperatorRotationView>, Refusal> {
    Ok(Json(authority.cancel_operator_rotation(&caller.actor, id, &reason).await?))
}

/// Shows what the next operator JWT is to say, to be signed where the operator's identity is.
///
/// Nothing to add and nothing to remove: the present one is right.
#[utoipa::path(
    get, path = "/operator/jwt/proposal", tag = "operator",
    responses((status = 200, description = "The proposal", body = OperatorJwtProposal)),
)]
async fn propose_operator_jwt(State(authority): State<Arc<Authority>>) -> Result<Json<OperatorJwtProposal>, Refusal> {
    Ok(Json(authority.operator_jwt_proposal().await?))
}

/// Takes an operator JWT that was signed with the operator's identity.
///
/// It says what the proposal says and nothing else. Servers are to be restarted with the new
/// `GET /operator/server-config`.
#[utoipa::path(
    put, path = "/operator/jwt", tag = "operator", request_body = NewOperatorJwt,
    responses(
        (status = 200, description = "Taken, or the present one already", body = OperatorView),
        (status = 422, description = "Not what is proposed; the reason is named"),
    ),
)]
async fn set_operator_jwt(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
    Body(request): Body<NewOperatorJwt>,
) -> Result<Json<OperatorView>, Refusal> {
    authority.set_operator_jwt(&caller.actor, &request.jwt).await?;
    Ok(Json(view(&authority).await?))
}
