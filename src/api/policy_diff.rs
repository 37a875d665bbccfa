//! What other files of plans and roles would do to all organizations, before they are put in force.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    caller::Caller,
    extract::{Body, Query},
    page::{Limit, page},
    policies::{HeldUp, PromiseView},
    problem::Refusal,
};
use crate::{
    authority::{Authority, Following, Preview},
    error::{Error, Result as Outcome},
    model::{
        OrgSlug,
        preview::{ClosingCause, PreviewView},
    },
    policy::{Policies, Texts},
    resolver::Resolver,
    store::organizations::Bytes,
    tasks::forecast::forecast,
};

/// The most files of one kind.
const MAX_FILES: usize = 100;

/// The servers are asked about so many accounts at a time.
const ASKED_AT_ONCE: usize = 8;

/// The most organizations in a page: each is a transaction and up to two questions to the servers.
const MAX_PAGE: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(diff_policies))
}

/// Files of plans and roles: all of them, for they would replace what is in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyFiles {
    /// Texts of `plans/*.toml` by name without `.toml`; at most 100.
    pub plans: BTreeMap<String, String>,
    /// Texts of `roles/*.toml` by name without `.toml`; at most 100.
    pub roles: BTreeMap<String, String>,
}

impl PolicyFiles {
    fn parse(&self) -> Outcome<Policies> {
        let all = |kind: &str, texts: &Texts| {
            if (1..=MAX_FILES).contains(&texts.len()) {
                return Ok(texts.clone());
            }
            let detail = format!("there are 1 to {MAX_FILES} files of {kind}, here are {}", texts.len());
            Err(Error::field("invalid-policy", format!("/{kind}"), detail))
        };
        Policies::parse("policies", all("plans", &self.plans)?, all("roles", &self.roles)?)
    }
}

/// What other plans and roles would do, one page of the organizations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDiffView {
    /// SHA-256 over names and texts of the files.
    pub fingerprint: String,
    /// Why a reload would not take the files at all; null: it would.
    pub refused: Option<String>,
    /// The organizations of this page whose account or promise would change, by slug.
    pub items: Vec<PreviewView>,
    /// Those of this page that could not follow and would stay as they are.
    pub held_up: Vec<HeldUp>,
    /// Sums over this page.
    pub totals: DiffTotals,
    /// What all plans together promise now.
    pub promised: PromiseView,
    /// What may be promised: the JetStream capacity of the servers times `jetstream.overcommit`; null: no server has
    /// told its own. A reload is not refused for exceeding it; what asks for more afterwards is.
    pub capacity: Option<PromiseView>,
    /// The `cursor` of the next page; null: this is the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Sums over a page.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiffTotals {
    /// Organizations that were looked at. Those that were composed with the same files are none of them.
    pub examined: u64,
    /// How many of them would change.
    pub changed: u64,
    /// How many would change and disconnect somebody.
    pub disconnecting: u64,
    /// How many could not follow.
    pub held_up: u64,
    /// Connections that would close.
    pub closing: u64,
    /// At least so many more would close, and servers choose which.
    pub undetermined: u64,
    /// Those that would close by cause.
    pub by_cause: BTreeMap<ClosingCause, u64>,
    /// By how much more would be promised.
    pub promise_change: PromiseView,
    /// The most bytes that an account's JWT would have.
    pub largest_jwt: usize,
    /// How many organizations there are where some server could not be asked.
    pub unasked: u64,
}

impl DiffTotals {
    fn count(&mut self, view: &PreviewView) {
        let connections = &view.connections;
        self.changed += 1;
        self.disconnecting += u64::from(connections.closing + connections.undetermined > 0);
        self.closing += connections.closing;
        self.undetermined += connections.undetermined;
        for cause in &connections.by_cause {
            *self.by_cause.entry(cause.cause).or_default() += cause.count;
        }
        self.largest_jwt = self.largest_jwt.max(view.bytes.next);
        self.unasked += u64::from(!view.unasked_servers.is_empty());
    }

    /// The sums over this page and another one.
    pub fn add(&mut self, other: &Self) {
        self.examined += other.examined;
        self.changed += other.changed;
        self.disconnecting += other.disconnecting;
        self.held_up += other.held_up;
        self.closing += other.closing;
        self.undetermined += other.undetermined;
        for (cause, count) in &other.by_cause {
            *self.by_cause.entry(*cause).or_default() += count;
        }
        self.promise_change.memory += other.promise_change.memory;
        self.promise_change.disk += other.promise_change.disk;
        self.largest_jwt = self.largest_jwt.max(other.largest_jwt);
        self.unasked += other.unasked;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffPage {
    /// How many organizations to look at; never more than 100 in one page.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Shows what files of plans and roles would do to the organizations if they were put in force now.
///
/// Every organization is brought to them as a reload would do it, and nothing of that is kept. The servers are asked
/// whom it would disconnect. Send the same files again with `cursor` for the next page.
#[utoipa::path(
    post, path = "/policies/diff", tag = "policies", request_body = PolicyFiles, params(DiffPage),
    responses((status = 200, description = "The consequences", body = PolicyDiffView)),
)]
async fn diff_policies(
    State(state): State<ApiState>,
    Query(query): Query<DiffPage>,
    _: Caller,
    Body(files): Body<PolicyFiles>,
) -> Result<Json<PolicyDiffView>, Refusal> {
    let page = page(query.limit, query.cursor.as_deref(), |key| key.parse::<OrgSlug>().ok())?;
    let new = files.parse()?;
    let view = diff(&state.authority, state.resolver.as_ref(), &new, page.after.as_ref(), page.limit).await?;
    Ok(Json(view))
}

async fn diff(
    authority: &Authority,
    resolver: Option<&Arc<dyn Resolver>>,
    new: &Policies,
    after: Option<&OrgSlug>,
    limit: i64,
) -> Outcome<PolicyDiffView> {
    let refused = authority.would_refuse(new).await?;
    let (found, more) = authority.preview_policies(new, after, limit.min(MAX_PAGE)).await?;
    let next_cursor = found.last().filter(|_| more).map(|(slug, _)| super::page::cursor(slug.as_str()));
    let mut totals = DiffTotals { examined: found.len() as u64, ..DiffTotals::default() };
    let (mut changed, mut held_up) = (Vec::new(), Vec::new());
    for (slug, following) in found {
        match following {
            Following::Unchanged => {}
            Following::HeldUp(reason) => held_up.push(HeldUp { org: slug.to_string(), reason }),
            Following::Changed { preview, promise } => {
                totals.promise_change.memory += promise.memory;
                totals.promise_change.disk += promise.disk;
                changed.push(preview);
            }
        }
    }
    totals.held_up = held_up.len() as u64;
    let ask = async |preview: Box<Preview>| forecast(resolver.map(Arc::as_ref), &preview).await;
    let items: Vec<_> = stream::iter(changed).map(ask).buffered(ASKED_AT_ONCE).collect().await;
    for view in &items {
        totals.count(view);
    }
    let promised = authority.promised().await?;
    let bytes = |bytes: Bytes| PromiseView { memory: bytes.memory, disk: bytes.disk };
    Ok(PolicyDiffView {
        fingerprint: data_encoding::HEXLOWER.encode(&new.fingerprint),
        refused,
        items,
        held_up,
        totals,
        promised: bytes(promised.now),
        capacity: promised.allowed.map(bytes),
        next_cursor,
    })
}
