//! Organizations.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried, etag_of},
    door::Seen,
    extract::{Body, OptionalBody, OrgPath, Query},
    page::{Limit, List, page},
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{
        Authority, Proposal,
        requests::{ChangeOrganization, NewOrganization, Reason},
    },
    model::{OrgSlug, OrgState, preview::PreviewView, view::OrganizationView},
    nkey::{Account, PublicKey},
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(onboard_organization, list_organizations))
        .routes(routes!(show_organization, change_organization, delete_organization))
        .routes(routes!(suspend_organization))
        .routes(routes!(resume_organization))
}

/// Onboards an organization.
///
/// Finds it when it is already there with the same content, so that a repeated request does no harm.
#[utoipa::path(
    post, path = "/orgs", tag = "organizations", request_body = NewOrganization,
    params(DryRunParam, IfMatchHeader, PreferHeader),
    responses(
        (status = 201, description = "Onboarded", body = OrganizationView),
        (status = 200, description = "It was there already; or a preview", body = Tried<OrganizationView>),
        (status = 409, description = "The slug is taken by another one, or the cluster has not what the plan promises"),
    ),
)]
async fn onboard_organization(
    State(authority): State<Arc<Authority>>,
    asked: Asked,
    prefer: Prefer,
    Body(request): Body<NewOrganization>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Onboard(&request)).await? {
        return Ok(preview);
    }
    let (view, created) = authority.onboard(&asked.actor, request).await?;
    let slug = view.slug.parse()?;
    let view = prefer.settle(&authority, &slug, false).await?.unwrap_or(view);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/api/v1/orgs/{slug}"))];
    Ok((status, prefer.applied(), etag_of(&view.resolver), location, Json(view)).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListOrganizations {
    /// Only those in this state; deleted ones are listed only with `deleted`.
    state: Option<OrgState>,
    /// Only those on this plan.
    plan: Option<String>,
    /// How many at most.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists the organizations that the caller may see, by slug.
#[utoipa::path(
    get, path = "/orgs", tag = "organizations", params(ListOrganizations),
    responses((status = 200, description = "A page", body = List<OrganizationView>)),
)]
async fn list_organizations(
    State(authority): State<Arc<Authority>>,
    Seen(only): Seen,
    Query(query): Query<ListOrganizations>,
) -> Result<Json<List<OrganizationView>>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| {
        let (slug, account) = key.split_once('/')?;
        Some((slug.parse::<OrgSlug>().ok()?.to_string(), account.parse::<PublicKey<Account>>().ok()?.to_string()))
    })?;
    let (items, more) = authority.organizations(query.state, query.plan.as_deref(), only.as_deref(), &page).await?;
    Ok(Json(List::page(items, more, |last| format!("{}/{}", last.slug, last.account_id))))
}

/// Shows an organization.
#[utoipa::path(
    get, path = "/orgs/{org}", tag = "organizations",
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses((status = 200, description = "The organization", body = OrganizationView)),
)]
async fn show_organization(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
) -> Result<Response, Refusal> {
    let view = authority.organization(&org).await?;
    Ok((etag_of(&view.resolver), Json(view)).into_response())
}

/// Changes an organization.
///
/// What is absent stays; `limits` replaces all earlier overrides.
#[utoipa::path(
    patch, path = "/orgs/{org}", tag = "organizations", request_body = ChangeOrganization,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 200, description = "Changed; or a preview", body = Tried<OrganizationView>),
        (status = 409, description = "It is not active, or the cluster has not what the plan promises"),
    ),
)]
async fn change_organization(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    asked: Asked,
    prefer: Prefer,
    Body(change): Body<ChangeOrganization>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Change(&org, &change)).await? {
        return Ok(preview);
    }
    let view = authority.change(&asked.actor, &org, change).await?;
    changed(StatusCode::OK, &authority, prefer, view).await
}

/// Suspends an organization.
///
/// Every connection is closed at once and none is let in; the data stays.
#[utoipa::path(
    post, path = "/orgs/{org}/suspend", tag = "organizations", request_body = Option<Reason>,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 200, description = "Suspended; or a preview", body = Tried<OrganizationView>),
        (status = 409, description = "It is being deleted"),
    ),
)]
async fn suspend_organization(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    asked: Asked,
    prefer: Prefer,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Suspend(&org, &reason)).await? {
        return Ok(preview);
    }
    let view = authority.suspend(&asked.actor, &org, reason).await?;
    changed(StatusCode::OK, &authority, prefer, view).await
}

/// Resumes a suspended organization.
#[utoipa::path(
    post, path = "/orgs/{org}/resume", tag = "organizations", request_body = Option<Reason>,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 200, description = "Active; or a preview", body = Tried<OrganizationView>),
        (status = 409, description = "It is being deleted"),
    ),
)]
async fn resume_organization(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    asked: Asked,
    prefer: Prefer,
    OptionalBody(reason): OptionalBody<Reason>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Resume(&org, &reason)).await? {
        return Ok(preview);
    }
    let view = authority.resume(&asked.actor, &org, reason).await?;
    changed(StatusCode::OK, &authority, prefer, view).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteOrganization {
    /// Also free its JetStream data.
    #[param(value_type = Option<bool>, default = false)]
    purge: Option<Flag>,
    /// Read by `Asked`; here so that it is no unknown one.
    #[serde(rename = "dryRun")]
    #[param(ignore)]
    _dry_run: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flag {
    True,
    False,
}

/// Deletes an organization.
///
/// Its connections are closed at once. It stays `deleting` until every server has deleted the
/// account; after that its slug may be used again, with a new account.
#[utoipa::path(
    delete, path = "/orgs/{org}", tag = "organizations",
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        DeleteOrganization,
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses(
        (status = 202, description = "The deletion is under way", body = OrganizationView),
        (status = 200, description = "A preview", body = PreviewView),
    ),
)]
async fn delete_organization(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    Query(query): Query<DeleteOrganization>,
    asked: Asked,
    prefer: Prefer,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::Delete(&org)).await? {
        return Ok(preview);
    }
    let view = authority.delete(&asked.actor, &org, query.purge == Some(Flag::True)).await?;
    changed(StatusCode::ACCEPTED, &authority, prefer, view).await
}

async fn changed(
    status: StatusCode,
    authority: &Authority,
    prefer: Prefer,
    view: OrganizationView,
) -> Result<Response, Refusal> {
    let view = prefer.settle(authority, &view.slug.parse()?, false).await?.unwrap_or(view);
    Ok((status, prefer.applied(), etag_of(&view.resolver), Json(view)).into_response())
}
