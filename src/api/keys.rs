//! Signing keys, their public halves, and what becomes of them.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried},
    caller::Caller,
    extract::{OptionalBody, OrgPath, Query, RotationPath},
    page::{Limit, List, page},
    problem::Refusal,
};
use crate::{
    authority::{
        Authority, KeyStanding, Proposal,
        requests::{Reason, RotateKeys},
    },
    model::{OrgSlug, RotationState, key_rotation::KeyRotationView},
    store::keys::KeyRow,
};

/// How old a signing key is to become.
const LIFE: TimeDelta = TimeDelta::days(365);

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_organization_keys))
        .routes(routes!(rotate_organization_keys))
        .routes(routes!(list_key_rotations))
        .routes(routes!(show_key_rotation))
        .routes(routes!(approve_key_rotation))
        .routes(routes!(cancel_key_rotation))
        .routes(routes!(hasten_key_rotation))
}

/// A signing key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    /// Public key.
    pub public_key: String,
    /// `operator`; `account`: signs users that carry their own permissions; `scoped`: signs users of
    /// one role in one environment.
    #[schema(example = "scoped")]
    pub kind: String,
    /// Environment type of a scoped key.
    pub env_type: Option<String>,
    /// Role of a scoped key.
    pub role: Option<String>,
    /// `pending`: in the account, signs nothing yet; `active`: signs; `retiring`: in the account, signs
    /// nothing any more; `retired`: out of the account. Of the operator's keys: in the operator JWT.
    #[schema(example = "active")]
    pub state: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it should be rotated; nothing does so by itself. Null unless it is active.
    pub rotate_by: Option<DateTime<Utc>>,
    /// How many credentials that are still accepted it has signed; null for the operator's.
    pub credentials: Option<i64>,
    /// The rotation that replaces it or that brought it, unless that is over.
    pub rotation: Option<Uuid>,
    /// What that rotation waits for, in words.
    pub waits_for: Option<String>,
}

impl From<KeyRow> for KeyView {
    fn from(row: KeyRow) -> Self {
        let KeyRow { public_key, kind, env_type, role, state, created_at } = row;
        let rotate_by = (state == "active").then(|| created_at + LIFE);
        let (credentials, rotation, waits_for) = (None, None, None);
        Self { public_key, kind, env_type, role, state, created_at, rotate_by, credentials, rotation, waits_for }
    }
}

impl From<KeyStanding> for KeyView {
    fn from(standing: KeyStanding) -> Self {
        Self {
            credentials: Some(standing.under.count),
            rotation: standing.rotation.as_ref().map(|rotation| rotation.id),
            waits_for: standing.rotation.and_then(|rotation| rotation.waits_for),
            ..Self::from(standing.row)
        }
    }
}

/// Rotations that were proposed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProposedRotations {
    /// One for each key.
    pub items: Vec<KeyRotationView>,
}

/// Lists the signing keys of an organization's account, the oldest first.
#[utoipa::path(
    get, path = "/orgs/{org}/keys", tag = "keys",
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses((status = 200, description = "All of them", body = List<KeyView>)),
)]
async fn list_organization_keys(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
) -> Result<Json<List<KeyView>>, Refusal> {
    let keys = authority.organization_keys(&org).await?;
    Ok(Json(List::whole(keys.into_iter().map(KeyView::from).collect())))
}

/// Asks for the rotation of signing keys.
///
/// Of one key, of those of an environment or a role, or of all. Nothing happens to them until a second
/// person with the role security-officer approves.
#[utoipa::path(
    post, path = "/orgs/{org}/keys/rotate", tag = "keys", request_body = Option<RotateKeys>,
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses(
        (status = 202, description = "Proposed, one rotation for each key", body = ProposedRotations),
        (status = 409, description = "The key is not active, or is being rotated already"),
    ),
)]
async fn rotate_organization_keys(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    caller: Caller,
    OptionalBody(request): OptionalBody<RotateKeys>,
) -> Result<Response, Refusal> {
    let items = authority.propose_key_rotations(&caller.actor, &org, &request).await?;
    Ok((StatusCode::ACCEPTED, Json(ProposedRotations { items })).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListKeyRotations {
    /// Only those of this organization.
    #[param(example = "acme")]
    org: Option<String>,
    /// Only those in this state.
    state: Option<RotationState>,
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists rotations of signing keys, the newest first.
#[utoipa::path(
    get, path = "/key-rotations", tag = "keys", params(ListKeyRotations),
    responses((status = 200, description = "A page", body = List<KeyRotationView>)),
)]
async fn list_key_rotations(
    State(authority): State<Arc<Authority>>,
    Query(query): Query<ListKeyRotations>,
) -> Result<Json<List<KeyRotationView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| Uuid::try_parse(key).ok())?;
    let org: Option<OrgSlug> =
        query.org.map(|text| text.parse()).transpose().map_err(|error| super::extract::at("org", &error))?;
    let (items, more) = authority.key_rotations(org.as_ref(), query.state, false, &page).await?;
    Ok(Json(List::page(items, more, |last| last.id.to_string())))
}

/// Shows a rotation and what it waits for.
#[utoipa::path(
    get, path = "/key-rotations/{id}", tag = "keys",
    params(("id" = Uuid, Path, description = "Identifier")),
    responses((status = 200, description = "The rotation", body = KeyRotationView)),
)]
async fn show_key_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
) -> Result<Json<KeyRotationView>, Refusal> {
    Ok(Json(authority.key_rotation(id).await?))
}

/// Approves a rotation, as a second person.
///
/// The new key is made and comes into the account. With `immediately` the old one leaves it at once.
#[utoipa::path(
    post, path = "/key-rotations/{id}/approve", tag = "keys",
    params(("id" = Uuid, Path, description = "Identifier"), DryRunParam, IfMatchHeader),
    responses(
        (status = 200, description = "Approved; or a preview", body = Tried<KeyRotationView>),
        (status = 403, description = "Not with the role security-officer, or not by another person"),
        (status = 409, description = "It is not waiting for an approval"),
    ),
)]
async fn approve_key_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
    asked: Asked,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::ApproveKeyRotation(id)).await? {
        return Ok(preview);
    }
    Ok(Json(authority.approve_key_rotation(&asked.actor, id).await?).into_response())
}

/// Gives a rotation up, as long as its new key signs nothing.
#[utoipa::path(
    post, path = "/key-rotations/{id}/cancel", tag = "keys", request_body = Option<Reason>,
    params(("id" = Uuid, Path, description = "Identifier")),
    responses(
        (status = 200, description = "Cancelled", body = KeyRotationView),
        (status = 409, description = "The new key signs already, or the old one has left"),
    ),
)]
async fn cancel_key_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
    caller: Caller,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Json<KeyRotationView>, Refusal> {
    Ok(Json(authority.cancel_key_rotation(&caller.actor, id, &reason).await?))
}

/// Takes the old key out of the account at once, as a second person.
///
/// Whoever still uses it is closed: the grace time and what was not rotated are waited for no longer.
#[utoipa::path(
    post, path = "/key-rotations/{id}/hasten", tag = "keys", request_body = Option<Reason>,
    params(("id" = Uuid, Path, description = "Identifier"), DryRunParam, IfMatchHeader),
    responses(
        (status = 200, description = "The old key is out of the account; or a preview", body = Tried<KeyRotationView>),
        (status = 403, description = "Not with the role security-officer, or not by another person"),
        (status = 409, description = "The old key is out already, or nothing is approved yet"),
    ),
)]
async fn hasten_key_rotation(
    State(authority): State<Arc<Authority>>,
    RotationPath(id): RotationPath,
    asked: Asked,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::HastenKeyRotation(id, &reason)).await? {
        return Ok(preview);
    }
    Ok(Json(authority.hasten_key_rotation(&asked.actor, id, &reason).await?).into_response())
}
