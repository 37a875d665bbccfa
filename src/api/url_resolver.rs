//! The URL account resolver: what nats-servers with `resolver: URL(…)` ask, without a token. JWTs are
//! public by nature; they say what may be done and sign nothing.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, extract::AccountPath, problem::Refusal};
use crate::{
    authority::Authority,
    error::Error,
    nkey::{Account, PublicKey},
};

/// Kept, but asked for again each time, so that no cache between holds up a suspension. (A nats-server
/// that has loaded an account does not ask again before it restarts.)
const CACHE_CONTROL: &str = "no-cache";

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(probe_accounts))
        .routes(routes!(show_account_jwt))
        .routes(routes!(show_operator_jwt))
}

/// Says that the resolver is there: a nats-server asks for it when it starts.
#[utoipa::path(
    get, path = "/jwt/v1/accounts/", tag = "url-resolver", security(()),
    responses((status = 200, description = "It is there", body = String, content_type = "text/plain")),
)]
async fn probe_accounts() -> &'static str {
    "nats-authority account resolver\n"
}

/// Shows the JWT of an account.
///
/// Suspended accounts are served; deleted and unknown ones are not there.
#[utoipa::path(
    get, path = "/jwt/v1/accounts/{accountId}", tag = "url-resolver", security(()),
    params(
        ("accountId" = String, Path, description = "Public key of the account"),
        ("If-None-Match" = Option<String>, Header, description = "`ETag` of an earlier answer"),
    ),
    responses(
        (status = 200, description = "The JWT", body = String, content_type = "application/jwt"),
        (status = 304, description = "It is still the same"),
    ),
)]
async fn show_account_jwt(
    State(authority): State<Arc<Authority>>,
    AccountPath(account): AccountPath,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let unknown = || Error::not_found("no-account", "there is no such account");
    let account: PublicKey<Account> = account.parse().map_err(|_| unknown())?;
    let jwt = authority.store().account_jwt(account).await?.ok_or_else(unknown)?;
    Ok(answer(jwt, &headers))
}

/// Shows the operator JWT.
#[utoipa::path(
    get, path = "/jwt/v1/operator", tag = "url-resolver", security(()),
    params(("If-None-Match" = Option<String>, Header, description = "`ETag` of an earlier answer")),
    responses(
        (status = 200, description = "The JWT", body = String, content_type = "application/jwt"),
        (status = 304, description = "It is still the same"),
    ),
)]
async fn show_operator_jwt(State(authority): State<Arc<Authority>>, headers: HeaderMap) -> Response {
    answer(authority.operator().jwt.clone(), &headers)
}

fn answer(jwt: String, asked: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", data_encoding::HEXLOWER.encode(&Sha256::digest(jwt.as_bytes())));
    let known = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == tag || known == "*");
    let mut headers = HeaderMap::new();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwt"));
    (headers, jwt).into_response()
}
