//! Roles of callers of the API: what a caller is, not what it may do.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;

/// What a caller is to this deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CallerRole {
    /// Onboards, suspends and deletes organizations, sees everything.
    SovereignAdmin,
    /// Approves the rotation of signing keys, reads the audit log.
    SecurityOfficer,
    /// Manages the credentials of its own organization.
    OrgAdmin,
    /// Issues credentials in environments of its own organization that are not production.
    OrgDeveloper,
    /// Reads its own organization.
    OrgViewer,
}

impl CallerRole {
    /// All of them, the mightiest first.
    pub const ALL: [Self; 5] =
        [Self::SovereignAdmin, Self::SecurityOfficer, Self::OrgAdmin, Self::OrgDeveloper, Self::OrgViewer];

    /// It holds in organizations that are named, not in the whole deployment.
    pub fn holds_in_organizations(self) -> bool {
        matches!(self, Self::OrgAdmin | Self::OrgDeveloper | Self::OrgViewer)
    }

    /// The name, as tokens and policies have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SovereignAdmin => "sovereign-admin",
            Self::SecurityOfficer => "security-officer",
            Self::OrgAdmin => "org-admin",
            Self::OrgDeveloper => "org-developer",
            Self::OrgViewer => "org-viewer",
        }
    }
}

impl fmt::Display for CallerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CallerRole {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::field("unknown-caller-role", "/role", format!("'{text}' is no role of callers; known: {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for role in CallerRole::ALL {
            assert_eq!(role.as_str().parse::<CallerRole>().unwrap(), role);
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!("root".parse::<CallerRole>().is_err());
    }
}
