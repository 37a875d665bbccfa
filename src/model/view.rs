//! What callers get to see, in the words of the API: the one shape for REST, CLI and events.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    credential::{CredentialState, Reach, TimeWindow},
    item::{DeliverPolicy, ItemState, Retention},
    organization::{EnvState, OrgState},
};

/// An organization.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationView {
    /// Slug.
    #[schema(example = "acme")]
    pub slug: String,
    /// For people.
    pub display_name: String,
    /// Name of its plan.
    #[schema(example = "m")]
    pub plan: String,
    /// Overrides of single plan limits.
    pub limits: serde_json::Value,
    /// Credentials of roles that reach the whole organization may be issued, as far as the plan allows it.
    #[serde(default)]
    pub allow_organization_reach: bool,
    /// State.
    pub state: OrgState,
    /// Public key of its account.
    pub account_id: String,
    /// Environments.
    pub environments: Vec<EnvironmentView>,
    /// What the servers have.
    pub resolver: ResolverView,
    /// When it was onboarded.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// An environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentView {
    /// Type.
    #[schema(example = "prod")]
    pub env_type: String,
    /// `{org}-{envType}`.
    #[schema(example = "acme-prod")]
    pub name: String,
    /// Its subjects.
    #[schema(example = "ws.acme-prod.>")]
    pub subjects: String,
    /// Its event stream.
    pub stream: String,
    /// Its KV bucket.
    pub kv_bucket: String,
    /// State.
    pub state: EnvState,
    /// Why making its stream and bucket failed last, in the server's words.
    pub error: Option<String>,
}

/// A durable pull consumer of an environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerView {
    /// Its name, also in JetStream.
    #[schema(example = "orders")]
    pub name: String,
    /// The stream that it reads, in JetStream.
    #[schema(example = "ws-acme-prod-events")]
    pub stream: String,
    /// Subjects that it delivers, sorted; empty: all of the environment.
    #[schema(example = json!(["ws.acme-prod.orders.>"]))]
    pub filter_subjects: Vec<String>,
    /// How long it waits for an acknowledgement before it delivers again.
    #[schema(example = "30s")]
    pub ack_wait: String,
    /// How often it delivers a message; null: until it is acknowledged.
    pub max_deliver: Option<i64>,
    /// How many messages may be unacknowledged.
    pub max_ack_pending: i64,
    /// Where it begins.
    pub deliver_policy: DeliverPolicy,
    /// State.
    pub state: ItemState,
    /// Why making or removing it failed last, in the server's words.
    pub error: Option<String>,
}

/// A further stream of an environment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamView {
    /// Its name.
    #[schema(example = "jobs")]
    pub name: String,
    /// Its name in JetStream.
    #[schema(example = "ws-acme-prod-jobs")]
    pub stream: String,
    /// The event stream that it copies from.
    #[schema(example = "ws-acme-prod-events")]
    pub source: String,
    /// Subjects that it copies, sorted; empty: all of the environment.
    #[schema(example = json!(["ws.acme-prod.jobs.>"]))]
    pub filter_subjects: Vec<String>,
    /// Its size, bytes a replica.
    pub max_bytes: i64,
    /// How long it keeps a message; null: as long as there is room.
    #[schema(example = "7d")]
    pub max_age: Option<String>,
    /// How many messages of one subject it keeps; null: as many as there is room for.
    pub max_messages_per_subject: Option<i64>,
    /// When messages go.
    pub retention: Retention,
    /// State.
    pub state: ItemState,
    /// Why making or removing it failed last, in the server's words.
    pub error: Option<String>,
}

/// Which kind of account resolver a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResolverType {
    /// It stores every account.
    Full,
    /// It keeps what it looked up.
    Cache,
    /// It asks a URL, or has its accounts in its configuration; it stores nothing.
    Url,
}

/// What the servers have of one account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolverView {
    /// The sum over the servers.
    pub state: Convergence,
    /// The generation that every server should have.
    pub generation: i64,
    /// The known servers that lack it, by name.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Each known server.
    pub servers: Vec<ServerView>,
}

/// How far the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Convergence {
    /// Every live server runs it; a server that has not loaded the account counts when it stores it.
    Converged,
    /// No server has it yet.
    Pending,
    /// Some servers have it.
    Partial,
    /// No server can be reached.
    Unreachable,
}

/// What one server has of one account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    /// Server name.
    pub name: String,
    /// Server id.
    pub id: String,
    /// It answers now.
    pub live: bool,
    /// The generation that it acknowledged since its last start; 0: none. Servers that store nothing acknowledge
    /// what they run or have not loaded.
    pub stored: i64,
    /// The generation that it runs; null: it has not loaded the account.
    pub effective: Option<i64>,
    /// The server's words when it refused.
    pub error: Option<String>,
}

/// A credential, without anything secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialView {
    /// Identifier.
    pub id: Uuid,
    /// Organization.
    pub org: String,
    /// Environment type.
    pub env_type: String,
    /// The caller's name for it.
    pub name: String,
    /// Role.
    pub role: String,
    /// State.
    pub state: CredentialState,
    /// The user's public key.
    pub user_key: String,
    /// The signing key that issued it.
    pub issuer_key: String,
    /// SHA-256 of the JWT's text, hexadecimal.
    pub jwt_sha256: String,
    /// The inbox prefix that a client must use.
    pub inbox_prefix: String,
    /// How far it reaches: `organization` if it can create consumers, which deliver to any subject of the
    /// organization's account. Null when its role has left the policies.
    #[serde(default)]
    pub reach: Option<Reach>,
    /// What it may do; all is denied when its role has left the policies.
    pub permissions: PermissionsView,
    /// Connection types that it is bound to; empty: all.
    pub connection_types: Vec<String>,
    /// Networks that it is bound to; empty: all.
    pub allowed_cidrs: Vec<String>,
    /// Times of day at which it works; empty: always.
    #[serde(default)]
    pub times: Vec<TimeWindow>,
    /// Their time zone.
    #[serde(default)]
    pub times_location: Option<String>,
    /// The JWT alone is enough to connect.
    #[serde(default)]
    pub bearer: bool,
    /// It was issued for a public key: its owner holds the private key, and nobody else can bring a new one.
    #[serde(default)]
    pub own_key: bool,
    /// Labels.
    pub tags: Vec<String>,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// Who asked for it.
    pub issued_by: String,
    /// The credential that it replaces.
    pub replaces: Option<Uuid>,
    /// When its grace time ends and it is revoked; null unless superseded.
    #[serde(default)]
    pub ends_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Why.
    pub revocation_reason: Option<String>,
}

/// What revocations make of an organization's account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationsView {
    /// Organization.
    pub org: String,
    /// Whether the account stays small by itself.
    pub state: RevocationsState,
    /// Bytes of the account's JWT.
    pub bytes: i64,
    /// Users that it names as revoked, one by one.
    pub entries: i32,
    /// Everything issued until then is refused; null: there is no cutoff.
    pub cutoff: Option<DateTime<Utc>>,
    /// Above so many bytes entries fold into a cutoff, where that hits nothing valid.
    pub fold_above: i64,
    /// The most bytes that the servers take.
    pub limit: i64,
    /// When entries of credentials that have ended leave the account by themselves, at the latest; null: there are none.
    pub prune_at: Option<DateTime<Utc>>,
    /// Credentials that are valid now.
    pub valid: i64,
    /// Bytes that the account would have if each of them were revoked singly.
    pub forecast_bytes: i64,
    /// With `needs-reissue`: the oldest valid credentials, at most 100. When they have been rotated and ended,
    /// or have expired, the entries before them fold.
    pub held_back_by: Vec<Uuid>,
}

/// Whether an account stays small by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationsState {
    /// It does.
    Ok,
    /// It is larger than it should be, and a cutoff would stop valid credentials: rotate the oldest ones.
    NeedsReissue,
}

/// What a revocation did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokedView {
    /// Credentials that are revoked by it.
    pub revoked: i64,
    /// Users that the account then names, one by one.
    pub entries: usize,
    /// The account's cutoff: everything issued until then is refused. Null: there is none.
    pub cutoff: Option<DateTime<Utc>>,
    /// Signing keys that leave the account; a new one takes the place of each.
    pub replaced_keys: Vec<String>,
    /// The account becomes larger than it should be: see `GET /orgs/{org}/revocations`.
    pub needs_reissue: bool,
    /// Bytes of the account's JWT before.
    pub bytes_before: i64,
    /// Bytes of the account's JWT after.
    pub bytes_after: i64,
    /// What the servers have.
    pub resolver: ResolverView,
    /// Whether the clients are gone; null unless the request waited for it.
    pub clients: Option<ClientsView>,
}

/// What the servers say of the connections of revoked users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientsView {
    /// Every live server was asked after it had the change, and none has such a connection.
    pub gone: bool,
    /// Connections of these users just before the revocation; null: not every server said.
    pub open_before: Option<usize>,
    /// Connections that are still open.
    pub left: Vec<ClientView>,
    /// Servers that did not say.
    pub unanswered: Vec<String>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientView {
    /// Server name.
    pub server: String,
    /// The number by which that server knows it.
    pub cid: u64,
    /// The user's public key.
    pub user_key: String,
    /// The name that the client gave itself.
    pub name: Option<String>,
}

/// Publish and subscribe permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermissionsView {
    /// What may be published.
    pub publish: PermissionView,
    /// What may be subscribed.
    pub subscribe: PermissionView,
}

/// Allowed and denied subjects; deny wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermissionView {
    /// Allowed subjects.
    pub allow: Vec<String>,
    /// Denied subjects.
    pub deny: Vec<String>,
}

/// A token of the API, never its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Identifier.
    pub id: Uuid,
    /// Its bearer is `token:` and this name.
    #[schema(example = "ci")]
    pub name: String,
    /// What its bearer is.
    pub role: super::CallerRole,
    /// Where, by slug; empty for roles of the whole deployment.
    pub organizations: Vec<String>,
    /// It is the token that `init` made, which configuration can switch off.
    pub break_glass: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who made it; null for the token of `init`.
    pub created_by: Option<String>,
    /// When it ends; null for the token of `init`.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was used last; up to a minute late.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// An audit event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEventView {
    /// Identifier.
    pub id: Uuid,
    /// Number in the log.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// Who vouches for the actor: the issuer of its token; null for our own tokens and tasks.
    pub issuer: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// What was done.
    pub action: String,
    /// On which organization.
    pub org: Option<String>,
    /// On what.
    pub target: String,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// Public parts of the change.
    pub detail: serde_json::Value,
}
