//! Plans and roles in force, and the question whether something is allowed.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, extract::Body, page::List, problem::Refusal};
use crate::{
    authority::{
        Authority,
        requests::{CanI, Verdict},
    },
    error::{Error, Result as Outcome},
    jwt::{limits::JetStreamLimits, permissions::Permission},
    model::{
        Environment, OrgSlug, Reach,
        size::format_duration,
        view::{PermissionView, PermissionsView},
    },
    policy::{Plan, Role},
};

/// The environment in which a role's permissions are shown.
const EXAMPLE: (&str, &str) = ("acme", "prod");

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(show_policies))
        .routes(routes!(list_plans))
        .routes(routes!(list_roles))
        .routes(routes!(ask_can_i))
}

/// A plan. Amounts are plain numbers; -1 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// Name.
    #[schema(example = "m")]
    pub name: String,
    /// For people.
    pub description: String,
    /// Credentials of roles that reach the whole organization may be issued.
    #[serde(default)]
    pub organization_reach: bool,
    /// What an account on this plan may use.
    pub limits: PlanLimits,
    /// How large the streams of an environment are made.
    pub environment: EnvironmentSizes,
    /// What the plan reserves in the cluster, all replicas.
    pub promise: PromiseView,
}

/// The limits of an account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanLimits {
    /// Subscriptions a connection.
    pub subs: i64,
    /// Bytes a message.
    pub payload: i64,
    /// Client connections.
    pub conn: i64,
    /// Leaf node connections.
    pub leaf: i64,
    /// Imports.
    pub imports: i64,
    /// Exports.
    pub exports: i64,
    /// Exports may hold wildcards.
    pub wildcards: bool,
    /// Bearer users are refused.
    pub disallow_bearer: bool,
    /// JetStream, replicas counted; null on a plan with tiers.
    pub jetstream: Option<JetStreamView>,
    /// JetStream by replica tier, `R1`, `R3`, replicas not counted; empty on a plan without tiers.
    pub tiered_limits: BTreeMap<String, JetStreamView>,
}

/// JetStream limits; 0 streams, consumers or stream bytes do not occur, -1 is unlimited.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JetStreamView {
    /// Bytes in memory.
    pub mem_storage: i64,
    /// Bytes on disk.
    pub disk_storage: i64,
    /// Streams.
    pub streams: i64,
    /// Consumers.
    pub consumers: i64,
    /// Unacknowledged messages a consumer.
    pub max_ack_pending: i64,
    /// Bytes a memory stream.
    pub mem_max_stream_bytes: i64,
    /// Bytes a file stream.
    pub disk_max_stream_bytes: i64,
    /// Every stream has to say its `max_bytes`.
    pub max_bytes_required: bool,
}

/// How large the streams of an environment are made, bytes a replica.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentSizes {
    /// The event stream.
    pub event_stream_max_bytes: i64,
    /// The KV bucket.
    pub kv_bucket_max_bytes: i64,
}

/// Bytes that a plan reserves in the cluster, all replicas.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PromiseView {
    /// In memory.
    pub memory: i64,
    /// On disk.
    pub disk: i64,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleView {
    /// Name.
    #[schema(example = "projector")]
    pub name: String,
    /// For people.
    pub description: String,
    /// How far a credential of the role reaches.
    pub reach: Reach,
    /// How long a credential lives when its request does not say.
    #[schema(example = "90d")]
    pub default_ttl: String,
    /// How long a credential may live.
    #[schema(example = "365d")]
    pub max_ttl: String,
    /// For how long it may be renewed, counted from its first issue; null: without end.
    #[schema(example = "365d")]
    pub renewable_for: Option<String>,
    /// Where it may be issued; null: in every environment type.
    pub env_types: Option<Vec<String>>,
    /// A credential may be a bearer token.
    pub bearer_allowed: bool,
    /// What it may do, shown for one environment.
    pub example: RoleExample,
}

/// What a role may do in one environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoleExample {
    /// The environment, `{org}-{envType}`.
    #[schema(example = "acme-prod")]
    pub environment: String,
    /// What it may do there; `{{subject()}}` stands for the user's public key.
    pub permissions: PermissionsView,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        let limits = &plan.limits;
        let promise = plan.promise();
        Self {
            name: plan.name.clone(),
            description: plan.description.clone(),
            organization_reach: plan.organization_reach,
            limits: PlanLimits {
                subs: limits.subs,
                payload: limits.payload,
                conn: limits.conn,
                leaf: limits.leaf,
                imports: limits.imports,
                exports: limits.exports,
                wildcards: limits.wildcards,
                disallow_bearer: limits.disallow_bearer,
                jetstream: limits.tiered_limits.is_empty().then(|| (&limits.jetstream).into()),
                tiered_limits: limits
                    .tiered_limits
                    .iter()
                    .map(|(tier, limits)| (tier.clone(), limits.into()))
                    .collect(),
            },
            environment: EnvironmentSizes {
                event_stream_max_bytes: plan.environment.event_stream_max_bytes,
                kv_bucket_max_bytes: plan.environment.kv_bucket_max_bytes,
            },
            promise: PromiseView { memory: promise.memory, disk: promise.disk },
        }
    }
}

impl From<&JetStreamLimits> for JetStreamView {
    fn from(limits: &JetStreamLimits) -> Self {
        Self {
            mem_storage: limits.mem_storage,
            disk_storage: limits.disk_storage,
            streams: limits.streams,
            consumers: limits.consumer,
            max_ack_pending: limits.max_ack_pending,
            mem_max_stream_bytes: limits.mem_max_stream_bytes,
            disk_max_stream_bytes: limits.disk_max_stream_bytes,
            max_bytes_required: limits.max_bytes_required,
        }
    }
}

fn role_view(role: &Role, example: &Environment) -> RoleView {
    let permissions = role.scope(example).template.permissions;
    let part = |permission: Permission| PermissionView { allow: permission.allow, deny: permission.deny };
    RoleView {
        name: role.name.clone(),
        description: role.description.clone(),
        reach: role.reach,
        default_ttl: format_duration(role.default_ttl),
        max_ttl: format_duration(role.max_ttl),
        renewable_for: role.renewable_for.map(format_duration),
        env_types: role.env_types.as_ref().map(|types| types.iter().map(ToString::to_string).collect()),
        bearer_allowed: role.bearer_allowed,
        example: RoleExample {
            environment: example.name(),
            permissions: PermissionsView { publish: part(permissions.publish), subscribe: part(permissions.subscribe) },
        },
    }
}

/// The files of plans and roles, and how far they have reached the accounts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoliciesView {
    /// SHA-256 over names and texts of the files that this replica has loaded.
    pub fingerprint: String,
    /// No other replica has loaded others later.
    pub in_force: bool,
    /// Why the files that were to be loaded last are not; null: they are.
    pub refused: Option<String>,
    /// Accounts that were composed with others and are still to follow.
    pub outdated_accounts: i64,
    /// Organizations that could not follow, with the reason; at most 100.
    pub held_up: Vec<HeldUp>,
}

/// An organization whose account could not follow.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HeldUp {
    /// Slug.
    pub org: String,
    /// Why.
    pub reason: String,
}

/// Shows which files of plans and roles are in force.
#[utoipa::path(
    get, path = "/policies", tag = "policies",
    responses((status = 200, description = "The state", body = PoliciesView)),
)]
async fn show_policies(State(authority): State<Arc<Authority>>) -> Result<Json<PoliciesView>, Refusal> {
    let (fingerprint, loaded) = (authority.policies().fingerprint, authority.loaded());
    let held_up = loaded.held_up.iter().map(|(org, reason)| HeldUp { org: org.to_string(), reason: reason.clone() });
    Ok(Json(PoliciesView {
        fingerprint: data_encoding::HEXLOWER.encode(&fingerprint),
        in_force: authority.store().are_in_force(&fingerprint).await?,
        refused: loaded.refused.clone(),
        outdated_accounts: authority.store().count_composed_otherwise(&fingerprint).await?,
        held_up: held_up.collect(),
    }))
}

/// Lists the plans in force.
#[utoipa::path(
    get, path = "/plans", tag = "policies",
    responses((status = 200, description = "All of them", body = List<PlanView>)),
)]
async fn list_plans(State(authority): State<Arc<Authority>>) -> Json<List<PlanView>> {
    Json(List::whole(authority.policies().plans.values().map(PlanView::from).collect()))
}

/// Lists the roles in force.
#[utoipa::path(
    get, path = "/roles", tag = "policies",
    responses((status = 200, description = "All of them", body = List<RoleView>)),
)]
async fn list_roles(State(authority): State<Arc<Authority>>) -> Result<Json<List<RoleView>>, Refusal> {
    let example = example()?;
    Ok(Json(List::whole(authority.policies().roles.values().map(|role| role_view(role, &example)).collect())))
}

fn example() -> Outcome<Environment> {
    Ok(Environment::new(EXAMPLE.0.parse()?, EXAMPLE.1.parse()?))
}

/// Asks whether a role or a credential may publish or subscribe, and by which rule.
#[utoipa::path(
    post, path = "/can-i", tag = "policies", request_body = CanI,
    responses((status = 200, description = "Allowed or not", body = Verdict)),
)]
async fn ask_can_i(
    State(authority): State<Arc<Authority>>,
    Body(question): Body<CanI>,
) -> Result<Json<Verdict>, Refusal> {
    // As a name of the field here: the parser knows slugs as `/slug`.
    question.org.parse::<OrgSlug>().map_err(|error| Error::field(error.code(), "/org", error.to_string()))?;
    Ok(Json(authority.can_i(&question).await?))
}
