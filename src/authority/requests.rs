//! What callers ask for: the bodies of requests, as JSON, parsed as far as one can without the ledger.

use serde::{Deserialize, Serialize};
use serde_with::serde_as;
use utoipa::ToSchema;

use crate::{
    model::{
        DeliverPolicy, Retention, TimeWindow,
        object::Object,
        view::{PermissionView, PermissionsView},
    },
    policy::LimitsOverride,
};

/// Onboards an organization.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOrganization {
    /// `^[a-z][a-z0-9-]{2,31}$`, immutable.
    #[schema(example = "acme")]
    pub slug: String,
    /// For people; the slug when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Name of a plan; the configured default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "s")]
    pub plan: Option<String>,
    /// Environment types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["prod", "dev"]))]
    pub environments: Vec<String>,
}

/// Changes an organization; what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeOrganization {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Name of a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Overrides of single plan limits; replaces all earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LimitsOverride>)]
    pub limits: Option<serde_json::Value>,
    /// Whether credentials of roles that reach the whole organization may be issued from now on. Those that
    /// were issued before stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_organization_reach: Option<bool>,
}

/// Adds a durable pull consumer to an environment.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewConsumer {
    /// The further stream that it reads; the event stream when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "jobs")]
    pub stream: Option<String>,
    /// Subjects that it delivers, all inside the environment and apart from each other; all of the
    /// environment when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["ws.acme-prod.orders.>"]))]
    pub filter_subjects: Vec<String>,
    /// How long it waits for an acknowledgement before it delivers again, at most 24h; 30s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "30s")]
    pub ack_wait: Option<String>,
    /// How often it delivers a message; until it is acknowledged when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, example = 5)]
    pub max_deliver: Option<i64>,
    /// How many messages may be unacknowledged; 1000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000, example = 1000)]
    pub max_ack_pending: Option<i64>,
    /// Where it begins; `all` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_policy: Option<DeliverPolicy>,
}

/// Adds a further stream to an environment. It copies from the event stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewStream {
    /// Subjects that it copies, all inside the environment and apart from each other; all of the
    /// environment when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["ws.acme-prod.jobs.>"]))]
    pub filter_subjects: Vec<String>,
    /// Its size, each replica; it counts against the organization's plan.
    #[schema(example = "16MiB")]
    pub max_bytes: String,
    /// How long it keeps a message; as long as there is room when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "7d")]
    pub max_age: Option<String>,
    /// How many messages of one subject it keeps; as many as there is room for when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_messages_per_subject: Option<i64>,
    /// When messages go; `limits` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// Why something is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reason {
    /// For the audit log, at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// Issues a credential.
#[serde_as]
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCredential {
    /// The caller's name for it.
    #[schema(example = "projector-1")]
    pub name: String,
    /// Name of a role, or `custom` for permissions of the caller's own.
    #[schema(example = "projector")]
    pub role: String,
    /// With the role `custom`: what the credential may do. All of it has to lie inside the environment.
    #[serde_as(as = "Option<Object>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<NewPermissions>,
    /// How long it lives, such as `90d`; the role's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "90d")]
    pub ttl: Option<String>,
    /// The user's public key; the authority makes a key when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// With `publicKey`: that key's signature over the challenge, base64url without padding. The
    /// challenge is the text `nats-authority issue v1\n{org}-{envType}\n{role}\n{publicKey}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Connection types that it is bound to, such as `STANDARD`; all when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connection_types: Vec<String>,
    /// Networks that it may connect from, CIDR; all when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_cidrs: Vec<String>,
    /// Times of day at which it works; always when absent. Connections are closed when one ends.
    #[serde_as(as = "Vec<Object>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<TimeWindow>,
    /// The time zone of `times`, an IANA name; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    pub times_location: Option<String>,
    /// The JWT alone shall be enough to connect: only where role and plan allow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bearer: bool,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// What a credential of the role `custom` may do.
#[serde_as]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPermissions {
    /// What may be published; nothing when absent.
    #[serde_as(as = "Object")]
    #[serde(default)]
    pub publish: NewPermission,
    /// What may be subscribed beside its own inbox; nothing when absent.
    #[serde_as(as = "Object")]
    #[serde(default)]
    pub subscribe: NewPermission,
}

/// Allowed and denied subjects; deny wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPermission {
    /// Allowed subjects, all inside the environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["ws.acme-prod.orders.>"]))]
    pub allow: Vec<String>,
    /// Denied subjects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

impl From<NewPermissions> for PermissionsView {
    fn from(new: NewPermissions) -> Self {
        let part = |NewPermission { allow, deny }| PermissionView { allow, deny };
        Self { publish: part(new.publish), subscribe: part(new.subscribe) }
    }
}

impl From<PermissionsView> for NewPermissions {
    fn from(view: PermissionsView) -> Self {
        let part = |PermissionView { allow, deny }| NewPermission { allow, deny };
        Self { publish: part(view.publish), subscribe: part(view.subscribe) }
    }
}

/// Rotates a credential. The new one has the old one's name, role, options and lifetime.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotate {
    /// How long the old one works on; `24h` when absent, `0s` ends it at once. Its own end comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "24h")]
    pub grace: Option<String>,
    /// The user's new public key; the authority makes a key when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// With `publicKey`: the proof, as for issuing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Revokes all credentials of an organization for which everything that is named holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revoke {
    /// Everything of the organization; goes with nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Those of this environment type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "prod")]
    pub env: Option<String>,
    /// Those of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "projector")]
    pub role: Option<String>,
    /// Those issued before this time, or longer ago than this duration: `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-01-31T12:00:00Z")]
    pub issued_before: Option<String>,
    /// Those that this signing key has signed, as far as the ledger knows them. The key stays: a stolen one leaves the
    /// account by its rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// For the audit log, at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// Issues many credentials, all or none.
#[serde_as]
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCredentials {
    /// 1 to 1,000 of them.
    #[serde_as(as = "Vec<Object>")]
    pub items: Vec<NewCredential>,
}

/// Asks for a user of the system account for operations tools.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSystemCredential {
    /// For people and the audit log.
    pub name: String,
    /// At most `1h`.
    #[schema(example = "15m")]
    pub ttl: String,
}

/// Asks for the replacement of signing keys of an organization: of one, of those of an environment or of
/// a role, or of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateKeys {
    /// Only the scoped keys of this environment type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "prod")]
    pub env_type: Option<String>,
    /// Only the scoped keys of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "publisher")]
    pub role: Option<String>,
    /// Only this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// How long the old key stays in the account at least once the new one signs; `24h` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "24h")]
    pub grace: Option<String>,
    /// At the end of the grace time the old key leaves whoever still uses it, and closes them. Else it
    /// waits until its last credential is rotated, revoked or expired.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The key is in the wrong hands: it leaves the account with the approval, and closes its users, before
    /// the new one signs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immediately: bool,
    /// For the audit log, at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// Asks for every signing key to be sealed with the first sealing key.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reseal {
    /// The sealing key that the caller takes for the first one; refused where the replica that answers has another
    /// one first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "9f86d081884c7d65")]
    pub to: Option<String>,
}

/// Asks whether a role or a credential may do something.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanI {
    /// Organization.
    pub org: String,
    /// Environment type.
    pub env_type: String,
    /// A role's name, or…
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// …a credential's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<uuid::Uuid>,
    /// A subject to publish to, or…
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<String>,
    /// …a subject to subscribe to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<String>,
}

/// The answer to [`CanI`].
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The server would let it pass.
    pub allowed: bool,
    /// By which rule.
    pub rule: String,
}

/// A token to make.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewApiToken {
    /// Its bearer is `token:` and this name in the audit log.
    #[schema(example = "ci")]
    pub name: String,
    /// What its bearer is.
    #[schema(example = "org-developer")]
    pub role: String,
    /// Where, by slug; only for roles that hold in organizations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<String>,
    /// How long it lives, `1m` to `365d`; `90d` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "90d")]
    pub ttl: Option<String>,
}
