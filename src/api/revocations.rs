//! Revoking by a selector, and what revocations make of an account.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use chrono::DateTime;
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    asked::{Asked, DryRunParam, IfMatchHeader, Tried, etag_of},
    extract::{Body, OrgPath},
    prefer::{Prefer, PreferHeader},
    problem::Refusal,
};
use crate::{
    authority::{Authority, Proposal, requests::Revoke},
    error::Result as Outcome,
    model::{
        OrgSlug,
        view::{ClientsView, Convergence, OrganizationView, RevocationsView, RevokedView},
    },
    resolver::Connections,
    tasks::gone,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(revoke_credentials, show_revocations))
}

/// Revokes all credentials that a selector names.
///
/// The account changes as little as it can so that the servers refuse exactly these: single entries while
/// there is room, else a cutoff that hits nothing that is to stay, else new signing keys where every valid user
/// of the old one is to go. `all` and `issuedBefore` alone are a cutoff: it also hits what the ledger does not
/// know. So does taking a stolen signing key out of the account, which is its rotation, `immediately`. With
/// `Prefer: wait=N` the answer says whether the clients are gone.
#[utoipa::path(
    post, path = "/orgs/{org}/revocations", tag = "credentials", request_body = Revoke,
    params(
        ("org" = String, Path, description = "Slug", example = "acme"),
        DryRunParam,
        IfMatchHeader,
        PreferHeader,
    ),
    responses((status = 200, description = "Revoked; or a preview", body = Tried<RevokedView>)),
)]
async fn revoke_credentials(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
    asked: Asked,
    prefer: Prefer,
    Body(request): Body<Revoke>,
) -> Result<Response, Refusal> {
    if let Some(preview) = asked.preview(Proposal::RevokeSelected(&org, &request)).await? {
        return Ok(preview);
    }
    let witness = Witness::of(&asked, &authority, &org, prefer).await?;
    let done = authority.revoke_selected(&asked.actor, &org, &request).await?;
    let view = prefer.settled_or_now(&authority, &org, false).await?;
    let clients = witness.confirm(&asked, &authority, &view).await?;
    let body = RevokedView {
        revoked: done.revoked,
        entries: done.effect.entries,
        cutoff: done.effect.cutoff.and_then(|at| DateTime::from_timestamp(at, 0)),
        replaced_keys: done.effect.replaced.iter().map(ToString::to_string).collect(),
        needs_reissue: done.effect.over,
        bytes_before: done.bytes_before,
        bytes_after: done.bytes_after,
        resolver: view.resolver,
        clients,
    };
    Ok((prefer.applied(), etag_of(&body.resolver), Json(body)).into_response())
}

/// Shows what revocations make of an organization's account.
#[utoipa::path(
    get, path = "/orgs/{org}/revocations", tag = "credentials",
    params(("org" = String, Path, description = "Slug", example = "acme")),
    responses((status = 200, description = "How large it is, and what keeps it so", body = RevocationsView)),
)]
async fn show_revocations(
    State(authority): State<Arc<Authority>>,
    OrgPath(org): OrgPath,
) -> Result<Json<RevocationsView>, Refusal> {
    Ok(Json(authority.revocations(&org).await?))
}

/// What the servers said before a revocation, when the answer is to say whether the clients are gone.
pub(super) struct Witness {
    waits: bool,
    before: Option<Vec<Connections>>,
    deadline: Instant,
}

impl Witness {
    /// Asks the servers, if the caller waits.
    pub(super) async fn of(asked: &Asked, authority: &Authority, org: &OrgSlug, prefer: Prefer) -> Outcome<Self> {
        let deadline = Instant::now() + prefer.wait();
        if prefer.wait().is_zero() {
            return Ok(Self { waits: false, before: None, deadline });
        }
        let view = authority.organization(org).await?;
        let before = match view.account_id.parse() {
            Ok(account) => gone::before(asked.resolver(), account).await,
            Err(_) => None,
        };
        Ok(Self { waits: true, before, deadline })
    }

    /// Asks them again, after the wait.
    pub(super) async fn confirm(
        self,
        asked: &Asked,
        authority: &Authority,
        view: &OrganizationView,
    ) -> Outcome<Option<ClientsView>> {
        let (true, Ok(account), Ok(org)) = (self.waits, view.account_id.parse(), view.slug.parse()) else {
            return Ok(None);
        };
        let settled = view.resolver.state == Convergence::Converged;
        let of = (&org, account);
        gone::confirm(authority, asked.resolver(), of, self.before.as_deref(), settled, self.deadline).await.map(Some)
    }
}
