//! Organizations and their environments: data and the transitions between their states.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::names::OrgSlug;
use crate::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
};

/// An organization as the ledger holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Identifier.
    pub id: Uuid,
    /// Slug, unique among organizations that are not deleted.
    pub slug: OrgSlug,
    /// For people.
    pub display_name: String,
    /// Name of its plan.
    pub plan: String,
    /// Overrides of single plan limits, as they were given.
    pub limits: serde_json::Value,
    /// Credentials of roles that reach the whole organization may be issued.
    pub allow_organization_reach: bool,
    /// State.
    pub state: OrgState,
    /// Its account.
    pub account: PublicKey<Account>,
    /// When it was onboarded.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// The life of an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrgState {
    /// Its users can connect.
    Active,
    /// Every connection is closed, the data is kept.
    Suspended,
    /// The deletion saga is under way.
    Deleting,
    /// Gone; the slug may be used again.
    Deleted,
}

/// The life of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnvState {
    /// Its stream and bucket are being made.
    Pending,
    /// Stream and bucket exist.
    Ready,
    /// Stream and bucket are being removed.
    Deleting,
    /// Gone; the type may be used again.
    Deleted,
}

impl OrgState {
    /// Suspends; suspending twice is no change.
    pub fn suspend(self) -> Result<Self> {
        match self {
            Self::Active | Self::Suspended => Ok(Self::Suspended),
            Self::Deleting | Self::Deleted => Err(gone()),
        }
    }

    /// Resumes; resuming an active one is no change.
    pub fn resume(self) -> Result<Self> {
        match self {
            Self::Active | Self::Suspended => Ok(Self::Active),
            Self::Deleting | Self::Deleted => Err(gone()),
        }
    }

    /// Starts the deletion; asking again is no change.
    #[must_use]
    pub fn delete(self) -> Self {
        match self {
            Self::Active | Self::Suspended | Self::Deleting => Self::Deleting,
            Self::Deleted => Self::Deleted,
        }
    }

    /// Only an active organization takes new environments and credentials.
    pub fn require_active(self) -> Result<()> {
        match self {
            Self::Active => Ok(()),
            Self::Suspended => {
                Err(Error::conflict("organization-suspended", "the organization is suspended; resume it first"))
            }
            Self::Deleting | Self::Deleted => Err(gone()),
        }
    }

    /// The name in the database and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Suspended, Self::Deleting, Self::Deleted].into_iter().find(|state| state.as_str() == text)
    }
}

impl EnvState {
    /// The name in the database and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Ready, Self::Deleting, Self::Deleted].into_iter().find(|state| state.as_str() == text)
    }
}

fn gone() -> Error {
    Error::conflict("organization-deleting", "the organization is being deleted; that cannot be undone")
}

#[cfg(test)]
mod tests {
    use super::OrgState::{Active, Deleted, Deleting, Suspended};

    #[test]
    fn transitions() {
        // state, suspend, resume, delete
        let table = [
            (Active, Some(Suspended), Some(Active), Deleting),
            (Suspended, Some(Suspended), Some(Active), Deleting),
            (Deleting, None, None, Deleting),
            (Deleted, None, None, Deleted),
        ];
        for (state, suspend, resume, delete) in table {
            assert_eq!(state.suspend().ok(), suspend, "{state:?} suspend");
            assert_eq!(state.resume().ok(), resume, "{state:?} resume");
            assert_eq!(state.delete(), delete, "{state:?} delete");
            assert_eq!(state.require_active().is_ok(), state == Active);
        }
    }
}
