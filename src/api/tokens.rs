//! Tokens of callers. The text of one is answered once, to the request that made it, and is kept nowhere.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    ApiState,
    caller::Caller,
    extract::{Body, Query, TokenPath},
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{
    authority::{Authority, requests::NewApiToken},
    model::view::TokenView,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create_token, list_tokens)).routes(routes!(revoke_token))
}

/// A token that was made, answered once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// What is known of it.
    pub token: TokenView,
    /// Its text. Secret; it cannot be had again.
    #[serde(serialize_with = "expose", deserialize_with = "take")]
    #[schema(value_type = String)]
    pub secret: Zeroizing<String>,
}

fn expose<S: Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// Makes a token for a caller.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", request_body = NewApiToken,
    responses(
        (status = 201, description = "Made", body = CreatedToken),
        (status = 409, description = "Another token has the name"),
    ),
)]
async fn create_token(
    State(authority): State<Arc<Authority>>,
    caller: Caller,
    Body(request): Body<NewApiToken>,
) -> Result<Response, Refusal> {
    let (token, secret) = authority.create_token(&caller.actor, request).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, no_store, Json(CreatedToken { token, secret })).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListTokens {
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists tokens in the order of their making, never their text.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", params(ListTokens),
    responses((status = 200, description = "A page", body = List<TokenView>)),
)]
async fn list_tokens(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ListTokens>,
) -> Result<Json<List<TokenView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| Uuid::try_parse(key).ok())?;
    let (items, more) = authority.store().tokens(&page).await?;
    Ok(Json(List::page(items, more, |last| last.id.to_string())))
}

/// Revokes a token. Replicas that have seen it lately believe it for up to five seconds more; the one that
/// answers does not.
#[utoipa::path(
    delete, path = "/tokens/{id}", tag = "tokens",
    params(("id" = Uuid, Path, description = "Identifier")),
    responses((status = 200, description = "Revoked", body = TokenView)),
)]
async fn revoke_token(
    State(state): State<ApiState>,
    TokenPath(id): TokenPath,
    caller: Caller,
) -> Result<Json<TokenView>, Refusal> {
    let revoked = state.authority.revoke_token(&caller.actor, id).await?;
    state.callers.forget(id);
    Ok(Json(revoked))
}
