//! Rotations of signing keys as the ledger holds them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::names::{EnvType, OrgSlug};
use crate::nkey::{Account, PublicKey};

/// The replacement of one signing key of an account.
#[derive(Clone, Debug)]
pub struct KeyRotation {
    /// Identifier.
    pub id: Uuid,
    /// The organization's id.
    pub organization: Uuid,
    /// The organization.
    pub org: OrgSlug,
    /// Its account.
    pub account: PublicKey<Account>,
    /// The environment of a scoped key.
    pub environment: Option<Uuid>,
    /// Its type.
    pub env_type: Option<EnvType>,
    /// The role of a scoped key.
    pub role: Option<String>,
    /// What is replaced.
    pub old_key: PublicKey<Account>,
    /// What replaces it; none before the approval.
    pub new_key: Option<PublicKey<Account>>,
    /// How far it is.
    pub state: RotationState,
    /// The old key leaves the account before the new one signs.
    pub immediately: bool,
    /// At the end of the grace time the old key leaves whoever still uses it.
    pub force: bool,
    /// Seconds from the activation of the new key to the earliest removal of the old one.
    pub grace_seconds: i64,
    /// Why.
    pub reason: Option<String>,
    /// Who asked: subject and issuer.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// Who approved.
    pub approved_by: Option<String>,
    /// When.
    pub approved_at: Option<DateTime<Utc>>,
    /// The account's generation that carries the last step; 0: none does.
    pub generation: i64,
    /// Since when the new key signs.
    pub activated_at: Option<DateTime<Utc>>,
    /// When the grace time ends.
    pub retire_after: Option<DateTime<Utc>>,
    /// Since when the old key is out of the account.
    pub removed_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom or why it was cancelled.
    pub ended_because: Option<String>,
    /// The organization or the environment is being deleted or gone.
    pub pointless: bool,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RotationState {
    /// Waits for the approval of a second person.
    Proposed,
    /// The new key is in the account and signs nothing until every live server has it.
    Pending,
    /// The new key signs; the old one is still in the account.
    Retiring,
    /// The old key is out of the account and not yet proven gone on every server.
    Removing,
    /// Over.
    Done,
    /// Given up: by somebody, or because the organization or environment was deleted.
    Cancelled,
}

impl RotationState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Proposed, Self::Pending, Self::Retiring, Self::Removing, Self::Done, Self::Cancelled];

    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Pending => "pending",
            Self::Retiring => "retiring",
            Self::Removing => "removing",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Nothing is left to be done.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A rotation of a signing key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotationView {
    /// Identifier.
    pub id: Uuid,
    /// Organization.
    pub org: String,
    /// Environment type of a scoped key; null: the account's plain key.
    pub env_type: Option<String>,
    /// Role of a scoped key.
    pub role: Option<String>,
    /// The key that is replaced.
    pub old_key: String,
    /// The key that replaces it; null before the approval.
    pub new_key: Option<String>,
    /// How far it is.
    pub state: RotationState,
    /// What it waits for, in words; null when it is over.
    pub waits_for: Option<String>,
    /// The servers that it waits for.
    pub servers: Vec<String>,
    /// How many credentials that are still accepted the old key has signed.
    pub credentials: i64,
    /// When the last of them ends.
    pub credentials_end: Option<DateTime<Utc>>,
    /// The old key leaves the account at once, before the new one signs.
    pub immediately: bool,
    /// At the end of the grace time the old key leaves whoever still uses it, and closes them.
    pub force: bool,
    /// From the activation of the new key to the earliest removal of the old one.
    #[schema(example = "1d")]
    pub grace: String,
    /// Why.
    pub reason: Option<String>,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// Who approved.
    pub approved_by: Option<String>,
    /// When.
    pub approved_at: Option<DateTime<Utc>>,
    /// Since when the new key signs.
    pub activated_at: Option<DateTime<Utc>>,
    /// When the grace time ends.
    pub retire_after: Option<DateTime<Utc>>,
    /// Since when the old key is out of the account.
    pub removed_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom or why it was cancelled.
    pub ended_because: Option<String>,
}
