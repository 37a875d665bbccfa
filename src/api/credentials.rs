//! Credentials: issue, look up, rotate, revoke. A secret is answered once, to the request that made it, and
//! is kept nowhere.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried, etag_of},
    caller::Caller,
    environments::check,
    extract::{Body, CredentialPath, EnvPath, OptionalBody, OrgPath, Query, at},
    page::{Limit, List, page},
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
    revocations::Witness,
};
use crate::{
    authority::{
        Authority, Issued, Proposal,
        requests::{NewCredential, NewCredentials, Reason, Rotate},
    },
    error::{Error, Result as Outcome},
    model::{
        CredentialState, EnvType, Reach,
        size::parse_duration,
        view::{ClientsView, CredentialView, ResolverView},
    },
    store::listing::Filter,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(issue_credential))
        .routes(routes!(issue_credentials))
        .routes(routes!(list_credentials))
        .routes(routes!(show_credential))
        .routes(routes!(rotate_credential))
        .routes(routes!(revoke_credential))
}

/// An issued credential, answered once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedView {
    /// Its row, without anything secret.
    pub credential: CredentialView,
    /// The user JWT.
    pub jwt: String,
    /// The creds file, when the authority made the key. Secret; it cannot be had again.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "expose", deserialize_with = "take")]
    #[schema(value_type = Option<String>)]
    pub creds: Option<Zeroizing<String>>,
    /// What whoever gets it should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["a credential of the role 'env-admin' reaches every environment of 'acme', not only 'prod'"]))]
    pub warnings: Vec<String>,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn expose<S: Serializer>(creds: &Option<Zeroizing<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    creds.as_ref().map(|creds| creds.as_str()).serialize(serializer)
}

fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Zeroizing::new))
}

impl From<Issued> for IssuedView {
    fn from(issued: Issued) -> Self {
        let warnings = warnings(&issued.credential);
        Self { credential: issued.credential, jwt: issued.jwt, creds: issued.creds, warnings }
    }
}

fn warnings(credential: &CredentialView) -> Vec<String> {
    let CredentialView { org, env_type, role, .. } = credential;
    let reaches = credential.reach == Some(Reach::Organization);
    let reaches = reaches.then(|| {
        format!(
            "a credential of the role '{role}' reaches every environment of '{org}', not only '{env_type}': it can create consumers"
        )
    });
    let bearer = "whoever sees the JWT of a bearer credential can use it: it is as secret as a private key";
    reaches.into_iter().chain(credential.bearer.then(|| bearer.to_owned())).collect()
}

/// Issued credentials, in the order of the request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IssuedBatch {
    /// All of them.
    pub items: Vec<IssuedView>,
}

/// A credential after a change, with what the servers have of its account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangedCredential {
    /// The credential.
    #[serde(flatten)]
    pub credential: CredentialView,
    /// What the servers have.
    pub resolver: ResolverView,
    /// Whether its clients are gone; absent unless the request waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientsView>,
}

/// Nothing between us and the caller may keep a secret.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// Issues a credential.
///
/// Without `publicKey` the authority makes the key and answers the creds file this once. With it, the
/// private key stays with the caller and `proof` shows that it is there.
#[utoipa::path(
    post, path = "/orgs/{org}/envs/{envType}/credentials", tag = "credentials", request_body = NewCredential,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
    ),
    responses(
        (status = 201, description = "Issued", body = IssuedView),
        (status = 409, description = "The organization is not active, or the public key is in use"),
    ),
)]
async fn issue_credential(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
    caller: Caller,
    Body(request): Body<NewCredential>,
) -> Result<Response, Refusal> {
    check(&authority, &env_type)?;
    Ok(created(authority.issue(&caller.actor, &org, &env_type, request).await?))
}

fn created(issued: Issued) -> Response {
    let issued = IssuedView::from(issued);
    let location = [(header::LOCATION, format!("/api/v1/credentials/{}", issued.credential.id))];
    (StatusCode::CREATED, NO_STORE, location, Json(issued)).into_response()
}

/// Issues up to 1,000 credentials, all or none.
#[utoipa::path(
    post, path = "/orgs/{org}/envs/{envType}/credentials/batch", tag = "credentials", request_body = NewCredentials,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        ("envType" = String, Path, description = "Environment type", example = "prod"),
    ),
    responses(
        (status = 201, description = "Issued", body = IssuedBatch),
        (status = 409, description = "The organization is not active, or a public key is in use"),
    ),
)]
async fn issue_credentials(
    State(authority): State<Arc<Authority>>,
    EnvPath(org, env_type): EnvPath,
    caller: Caller,
    Body(request): Body<NewCredentials>,
) -> Result<Response, Refusal> {
    check(&authority, &env_type)?;
    let issued = authority.issue_batch(&caller.actor, &org, &env_type, request.items).await?;
    let body = IssuedBatch { items: issued.into_iter().map(IssuedView::from).collect() };
    Ok((StatusCode::CREATED, NO_STORE, Json(body)).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListCredentials {
    /// Only those of this environment type.
    #[param(example = "prod")]
    env: Option<String>,
    /// Only those of this role.
    role: Option<String>,
    /// Only those in this state.
    state: Option<CredentialState>,
    /// Only those that end before this time, or within this duration from now: `14d`.
    #[param(example = "14d")]
    expires_before: Option<String>,
    /// Only those of a key whose first JWT was issued before this time, or longer than this duration ago: a
    /// renewal does not make it younger.
    #[param(example = "30d")]
    first_issued_before: Option<String>,
    /// Only those that this signing key has issued.
    signing_key: Option<String>,
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists the credentials of an organization in the order of their issue.
#[utoipa::path(
    get, path = "/orgs/{org}/credentials", tag = "credentials",
    params(("org" = String, Path, description = "Slug", example = "acme"), ListCredentials),
    responses((status = 200, description = "A page", body = List<CredentialView>)),
)]
async fn list_credentials(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    Query(query): Query<ListCredentials>,
) -> Result<Json<List<CredentialView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| Uuid::try_parse(key).ok())?;
    let env_type: Option<EnvType> =
        query.env.map(|text| text.parse()).transpose().map_err(|error| at("env", &error))?;
    let ahead = |now: DateTime<Utc>, by| now.checked_add_signed(by);
    let expires_before =
        query.expires_before.map(|text| time("expiresBefore", &text, authority.now(), ahead)).transpose()?;
    let ago = |now: DateTime<Utc>, by| now.checked_sub_signed(by);
    let first_issued_before =
        query.first_issued_before.map(|text| time("firstIssuedBefore", &text, authority.now(), ago)).transpose()?;
    let signing_key = query.signing_key.map(|text| text.parse()).transpose().map_err(|_| {
        Error::field("invalid-public-key", "signingKey", "this is no public key of an account's signing key")
    })?;
    let (role, state) = (query.role, query.state);
    let filter = Filter { env_type, role, state, expires_before, first_issued_before, signing_key };
    let (items, more) = authority.credentials(&org, &filter, &page).await?;
    Ok(Json(List::page(items, more, |last| last.id.to_string())))
}

/// Shows a credential, never its secret.
#[utoipa::path(
    get, path = "/credentials/{id}", tag = "credentials",
    params(("id" = Uuid, Path, description = "Identifier")),
    responses((status = 200, description = "The credential", body = CredentialView)),
)]
async fn show_credential(
    State(authority): State<Arc<Authority>>,
    CredentialPath(id): CredentialPath,
) -> Result<Json<CredentialView>, Refusal> {
    Ok(Json(authority.credential(id).await?))
}

/// Rotates a credential.
///
/// Issues one with the same name, role, options and lifetime and another key. The old one works on for
/// the grace time and is then revoked.
#[utoipa::path(
    post, path = "/credentials/{id}/rotate", tag = "credentials", request_body = Option<Rotate>,
    params(("id" = Uuid, Path, description = "Identifier of the old one")),
    responses(
        (status = 201, description = "The new one", body = IssuedView),
        (status = 409, description = "The old one is revoked, expired or superseded, the organization is not active, or the public key is in use"),
    ),
)]
async fn rotate_credential(
    State(authority): State<Arc<Authority>>,
    CredentialPath(id): CredentialPath,
    caller: Caller,
    OptionalBody(request): OptionalBody<Rotate>,
) -> Result<Response, Refusal> {
    Ok(created(authority.rotate(&caller.actor, id, request).await?))
}

/// Revokes a credential.
///
/// The servers close its connections and let no new ones in. With `Prefer: wait=N` the answer says whether
/// they are gone.
#[utoipa::path(
    post, path = "/credentials/{id}/revoke", tag = "credentials", request_body = Option<Reason>,
    params(
        ("id" = Uuid, Path, description = "Identifier"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses((status = 200, description = "Revoked; or a preview", body = Tried<ChangedCredential>)),
)]
async fn revoke_credential(
    State(authority): State<Arc<Authority>>,
    CredentialPath(id): CredentialPath,
    asked: Asked,
    prefer: Prefer,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Revoke(id, &reason)).await? {
        return Ok(preview);
    }
    let org = authority.credential(id).await?.org.parse()?;
    let witness = Witness::of(&asked, &authority, &org, prefer).await?;
    let (credential, _) = authority.revoke(&asked.actor, id, reason).await?;
    let view = prefer.settled_or_now(&authority, &org, false).await?;
    let clients = witness.confirm(&asked, &authority, &view).await?;
    let body = ChangedCredential { credential, resolver: view.resolver, clients };
    Ok((prefer.applied(), etag_of(&body.resolver), Json(body)).into_response())
}

/// A time as callers write it: RFC 3339, or a duration that `apply` counts from now.
pub(super) fn time(
    name: &str,
    text: &str,
    now: DateTime<Utc>,
    apply: impl FnOnce(DateTime<Utc>, TimeDelta) -> Option<DateTime<Utc>>,
) -> Outcome<DateTime<Utc>> {
    // A '+' that was not percent-encoded arrives as a space.
    if let Ok(time) = DateTime::parse_from_rfc3339(&text.replace(' ', "+")) {
        return Ok(time.to_utc());
    }
    let refused = || {
        Error::field(
            "invalid-time",
            name,
            format!("'{text}' is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 14d"),
        )
    };
    let seconds = parse_duration(name, text).map_err(|_| refused())?;
    // The ledger's times end long before the calendar's.
    TimeDelta::try_seconds(seconds)
        .filter(|by| *by <= TimeDelta::days(365 * 1000))
        .and_then(|by| apply(now, by))
        .ok_or_else(refused)
}
