//! What a dry run tells, in the words of the API.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What a change would do. Nothing of it was done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewView {
    /// Organization.
    #[schema(example = "acme")]
    pub org: String,
    /// Public key of its account; a new organization gets another one when it is really onboarded.
    pub account_id: String,
    /// The account's generation now, 0: there is none yet. `If-Match` with it makes the real change this one or
    /// has it refused.
    pub generation: i64,
    /// The generation that it would become; the same when the account would not change.
    pub next_generation: i64,
    /// What would change in the account's claims. Signing keys stand by key; those that the change makes
    /// are named `(new 1)` and so on, for the real change makes others.
    pub changes: Vec<ClaimChange>,
    /// Size of the account's JWT.
    pub bytes: JwtBytes,
    /// Client connections that would close.
    pub connections: ClosingConnections,
    /// JetStream usage against the limits that would hold; null when no server could be asked.
    pub jetstream: Option<JetStreamImpact>,
    /// Imports whose exporting account is unknown here or deleted: they would not work.
    pub broken_imports: Vec<String>,
    /// Servers that could not be asked: what they hold is missing above.
    pub unasked_servers: Vec<String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClaimChange {
    /// JSON pointer into the claims.
    #[schema(example = "/nats/limits/conn")]
    pub pointer: String,
    /// Now; null: it is not there.
    pub before: Value,
    /// Afterwards; null: it is not there.
    pub after: Value,
}

/// Bytes of a JWT.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtBytes {
    /// Now.
    pub now: usize,
    /// Afterwards.
    pub next: usize,
    /// The most that every server takes.
    pub limit: usize,
}

/// Connections of the account, as the servers told them just now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClosingConnections {
    /// How many there are.
    pub open: u64,
    /// How many of them the servers told in detail; only of those is known which would close.
    pub examined: u64,
    /// How many of them would close.
    pub closing: u64,
    /// At least so many more would close, and servers choose which: a connection limit holds over all
    /// servers, but each closes connections of its own.
    pub undetermined: u64,
    /// Those that would close by cause; a connection is counted once.
    pub by_cause: Vec<ClosingByCause>,
}

/// Connections that would close for one cause.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClosingByCause {
    /// Why.
    pub cause: ClosingCause,
    /// How many.
    pub count: u64,
    /// The first 10 of them.
    pub examples: Vec<ConnectionView>,
}

/// Why servers close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClosingCause {
    /// The organization is deleted.
    Deleted,
    /// The account allows no connection: the organization is suspended.
    Suspended,
    /// Its user is revoked.
    Revoked,
    /// The key that issued its user leaves the account.
    KeyRemoved,
    /// The scope of the key that issued its user changes, be it only wider.
    RoleChanged,
    /// The account allows fewer connections: each server keeps its oldest ones.
    ConnectionLimit,
}

/// A client connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Its server.
    pub server: String,
    /// The number by which its server knows it.
    pub cid: u64,
    /// The public key of its user.
    pub user_key: Option<String>,
    /// The name that the client gave itself.
    pub name: Option<String>,
    /// Where it comes from.
    pub ip: Option<String>,
}

/// JetStream usage of the account against limits.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JetStreamImpact {
    /// Bytes in memory, all replicas.
    pub memory: i64,
    /// Bytes on disk, all replicas.
    pub disk: i64,
    /// Streams.
    pub streams: i64,
    /// The limits that would be below what is used.
    pub exceeded: Vec<ExceededLimit>,
}

/// A limit below what is used. Servers accept it and keep the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExceededLimit {
    /// Which, as a JSON pointer into the claims.
    #[schema(example = "/nats/limits/disk_storage")]
    pub pointer: String,
    /// What is used.
    pub used: i64,
    /// What would be allowed.
    pub limit: i64,
    /// What follows.
    #[schema(example = "publishing to streams fails (10002) until data is deleted")]
    pub effect: String,
}
