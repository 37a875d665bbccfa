//! Sealing keys: which rows are sealed with which, and sealing them again.

use std::sync::Arc;

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, caller::Caller, extract::OptionalBody, problem::Refusal};
use crate::{
    authority::{Authority, requests::Reseal},
    model::sealing::SealingView,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show_sealing_keys)).routes(routes!(reseal))
}

/// Shows the sealing keys, by their public identifiers, with the number of rows under each.
#[utoipa::path(
    get, path = "/operator/sealing-keys", tag = "operator",
    responses((status = 200, description = "As the replica that answers is configured", body = SealingView)),
)]
async fn show_sealing_keys(State(authority): State<Arc<Authority>>) -> Result<Json<SealingView>, Refusal> {
    Ok(Json(authority.sealing_keys().await?))
}

/// Seals signing keys again with the first sealing key.
///
/// Up to 20,000 rows in one request, in batches; repeat it until `left` is 0. It may be repeated at any time.
#[utoipa::path(
    post, path = "/operator/sealing-keys/reseal", tag = "operator", request_body = Option<Reseal>,
    responses(
        (status = 200, description = "What was done, and what is left", body = SealingView),
        (status = 409, description = "Another sealing key is first here"),
    ),
)]
async fn reseal(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
    OptionalBody(request): OptionalBody<Reseal>,
) -> Result<Json<SealingView>, Refusal> {
    Ok(Json(authority.reseal(&caller.actor, &request).await?))
}
