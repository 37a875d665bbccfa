//! Credentials as the ledger holds them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    names::{EnvType, OrgSlug},
    view::PermissionsView,
};
use crate::nkey::{Account, PublicKey, User};

/// One issued user JWT, without anything secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Identifier.
    pub id: Uuid,
    /// Organization.
    pub org: OrgSlug,
    /// Environment type.
    pub env_type: EnvType,
    /// The caller's name for it.
    pub name: String,
    /// Name of the role.
    pub role: String,
    /// The user's public key.
    pub user_key: PublicKey<User>,
    /// The signing key of the account that issued it.
    pub issuer_key: PublicKey<Account>,
    /// SHA-256 of the JWT's text.
    pub jwt_sha256: [u8; 32],
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// Who asked for it.
    pub issued_by: String,
    /// What the caller asked for beyond the role.
    pub options: Options,
    /// The credential that it replaces.
    pub replaces: Option<Uuid>,
    /// When a newer one replaced it.
    pub superseded_at: Option<DateTime<Utc>>,
    /// When it then is to be revoked.
    pub ends_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Why.
    pub revocation_reason: Option<String>,
}

/// How far a credential reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Strict: it publishes and subscribes to nothing outside its environment and asks JetStream to create
    /// nothing. Not a wall against malice, for servers don't check reply subjects: see `policy::territory`.
    Environment,
    /// It can create consumers, which deliver to any subject of the organization's account.
    Organization,
}

/// A time of day at which a credential works, `HH:MM:SS`. Where the end comes before the start it goes
/// over midnight; servers let in on both sides of it (seen on nats-server 2.15.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// From.
    #[schema(example = "08:00:00")]
    pub start: String,
    /// To; connections are closed then.
    #[schema(example = "18:00:00")]
    pub end: String,
}

/// What a caller may ask for beyond the role. Any restriction makes the user carry its own
/// permissions, for a user under a scoped key may carry none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// `STANDARD`, `WEBSOCKET`, …; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connection_types: Vec<String>,
    /// Networks that it may connect from, CIDR; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_cidrs: Vec<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Times of day at which it works; empty: always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<TimeWindow>,
    /// Their time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times_location: Option<String>,
    /// The JWT alone is enough to connect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bearer: bool,
    /// Permissions of the caller's own, with the role `custom` and only with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<PermissionsView>,
    /// The caller holds the private key; nobody else can bring a new one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_key: bool,
}

impl Options {
    /// The user must carry its own limits.
    pub fn restricts(&self) -> bool {
        !self.connection_types.is_empty()
            || !self.allowed_cidrs.is_empty()
            || !self.times.is_empty()
            || self.bearer
            || self.permissions.is_some()
    }
}

/// The life of a credential; follows from its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialState {
    /// Accepted by the servers.
    Active,
    /// Rotated, in its grace time.
    Superseded,
    /// Refused by the servers.
    Revoked,
    /// Past its end.
    Expired,
}

impl Credential {
    /// The state at `now`. Revoked wins over expired: it says what was done, not what happened.
    pub fn state(&self, now: DateTime<Utc>) -> CredentialState {
        if self.revoked_at.is_some() {
            CredentialState::Revoked
        } else if self.expires_at <= now {
            CredentialState::Expired
        } else if self.superseded_at.is_some() {
            CredentialState::Superseded
        } else {
            CredentialState::Active
        }
    }
}
