//! The rotation of the operator's signing key as the ledger holds it, and the operator JWT that it needs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::RotationState;
use crate::nkey::{Operator, PublicKey};

/// The replacement of the operator's signing key.
#[derive(Clone, Debug)]
pub struct OperatorRotation {
    /// Identifier.
    pub id: Uuid,
    /// What is replaced.
    pub old_key: PublicKey<Operator>,
    /// What replaces it; none before the approval.
    pub new_key: Option<PublicKey<Operator>>,
    /// How far it is. Pending: the new key signs nothing until every server trusts it; retiring: it signs, and
    /// servers trust the old one as well; removing: the operator JWT is without the old one.
    pub state: RotationState,
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
    /// Since when the new key signs.
    pub activated_at: Option<DateTime<Utc>>,
    /// Since when the operator JWT is without the old key.
    pub removed_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom it was cancelled.
    pub ended_because: Option<String>,
}

/// A rotation of the operator's signing key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorRotationView {
    /// Identifier.
    pub id: Uuid,
    /// The key that is replaced.
    pub old_key: String,
    /// The key that replaces it; null before the approval.
    pub new_key: Option<String>,
    /// How far it is. `pending`: the new key signs nothing until every server trusts it; `retiring`: it signs, and
    /// servers trust the old one as well; `removing`: the operator JWT is without the old one.
    pub state: RotationState,
    /// What it waits for, in words; null when it is over.
    pub waits_for: Option<String>,
    /// The servers that it waits for.
    pub servers: Vec<String>,
    /// It waits for an operator JWT that is signed offline: `GET /operator/jwt/proposal`.
    pub needs_operator_jwt: bool,
    /// How many accounts are still to be signed with the new key; null while it does not sign.
    pub accounts_to_sign: Option<i64>,
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
    /// Since when the operator JWT is without the old key.
    pub removed_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub ended_at: Option<DateTime<Utc>>,
    /// By whom it was cancelled.
    pub ended_because: Option<String>,
}

/// What the next operator JWT is to be. It is carried to where the operator's identity seed is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorJwtProposal {
    /// The present operator JWT. The next one says the same, with other signing keys.
    pub operator_jwt: String,
    /// All signing keys that the next one lists.
    pub signing_keys: Vec<String>,
    /// Those of them that the present one does not list.
    pub add: Vec<String>,
    /// Those that only the present one lists.
    pub remove: Vec<String>,
    /// The rotation that needs it.
    pub rotation: Option<Uuid>,
}

impl OperatorJwtProposal {
    /// The present operator JWT is as it should be.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}
